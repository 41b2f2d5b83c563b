"""What a user can cause, and is told in one line."""

from compression.config import PruneError
from tdmpc.agent import NonFiniteError
from tdmpc.checkpoint import CheckpointError
from tdmpc.config import ConfigError
from tdmpc.envs import UnsupportedEnvironment
from tdmpc.runs import RunError

EXPECTED = (CheckpointError, ConfigError, NonFiniteError, PruneError, RunError, UnsupportedEnvironment)
