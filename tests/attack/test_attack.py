"""Laws of the attack: at a small scale it finds nothing, and each part finds a fault that is planted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy import sensing
from tests.attack import bits, commands, controller, environments, kills, processes
from tests.attack.__main__ import PARTS, attack, main
from tests.attack.cases import Case, Part
