"""The record of a test: what was fixed beforehand comes first, then each return, then the result."""

import json
import logging
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tdmpc import runs
from tdmpc.config import ConfigError
from tdmpc.scripts.rungs import Rung
from tdmpc.vector_env import episode_seed

log = logging.getLogger("tdmpc")

CERTIFICATE = "certificate"
"""Part of a bundle's manifest; and with ``.json`` behind it the file in the folder of a run."""


class Record:
    """A file with a protocol that was written before the first episode; returns are played where they are missing."""

    def __init__(self, path: Path, protocol: Mapping[str, Any]) -> None:
        """Write the protocol down, or go on with what was recorded under the same one.

        A protocol without a seed takes a fresh one, or the one that is recorded.

        Raises:
            ConfigError: the file is of another protocol, or of another program.
        """
        self.path = path
        asked = json.loads(json.dumps(protocol))  # as it is read again
        if path.exists():
            self._content = _read(path, asked)
            return
        seed = secrets.randbelow(2**31) if asked["seed"] is None else asked["seed"]
        self._content = {"protocol": {**asked, "seed": seed}, "returns": {}}
        self.write()
        log.info("%s holds the protocol; it was written before the first episode", path)

    @property
    def protocol(self) -> dict[str, Any]:
        """What was fixed beforehand."""
        return self._content["protocol"]

    def returns(self, rung: Rung, count: int) -> np.ndarray:
        """The first returns, as shares of the way from the lowest to the highest possible.

        Raises:
            ConfigError: one is outside the bounds.
        """
        known, (low, high) = self._content["returns"].setdefault(str(rung.path), []), self.protocol["bounds"]
        while len(known) < count:
            value = rung.play(episode_seed(self.protocol["seed"], 0, len(known)))
            if not -1e-6 <= (value - low) / (high - low) <= 1 + 1e-6:
                raise ConfigError(
                    f"an episode of {rung.path} returns {value:g}, outside of the bounds {low:g} and {high:g}: a "
                    "certificate would be worth nothing. Give wider --bounds and another --out"
                )
            known.append(value)
            self.write()
        return np.clip((np.array(known[:count]) - low) / (high - low), 0, 1)

    def write(self, **more: Any) -> None:
        """Write the file whole."""
        self._content |= more
        runs.write_json(self.path, self._content)


def _read(path: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        known = content["protocol"] | ({"seed": None} if asked["seed"] is None else {})
        played = sum(map(len, content["returns"].values()))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path} exists and is no certificate ({error!r}): choose another --out") from error
    if changed := [name for name, value in asked.items() if known.get(name) != value]:
        raise ConfigError(
            f"{path} was begun with another {', '.join(changed)}: a protocol is not changed once it is written. Go on "
            "with what it says, or choose another --out and begin anew"
        )
    log.info("going on with %s: %d episodes are there", path, played)
    return content
