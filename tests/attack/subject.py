"""A small finished run and its bundles, made once by the command line; attacks work on copies."""

import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.attack import processes
from tests.scripts.conftest import SMALL

ENV = "tests.attack.odd:Arm3-v0"
TRAINED = [
    *SMALL,
    *("--env-steps=60", "--random-steps=20", "--pretrain-updates=8", "--checkpoint-every=25", "--eval-episodes=1"),
    *("--terminates=True", "--prune.target=0.3", "--prune.min-width=2", "--prune.events=2"),
]


class Subject(NamedTuple):
    """What there is to attack."""

    run: Path
    bundle: Path
    delayed: Path
    """A bundle whose actions are due one decision later, for pipelines."""

    def copied(self, folder: Path) -> "Subject":
        """A copy to spoil."""
        return Subject(*(Path(shutil.copytree(part, folder / part.name)) for part in self))


@cache
def subject() -> Subject:
    """Train and export."""
    folder = Path(_KEPT.name)
    for arguments in (
        ["train", ENV, *TRAINED, "--run-dir=run"],
        ["export", "run", "--out=bundle"],
        ["export", "run", "--out=delayed", "--delay=1"],
    ):
        ended = processes.run(arguments, folder)
        if ended.status != 0:
            raise RuntimeError(f"there is nothing to attack: {ended}")
    return Subject(*(folder / "here" / name for name in ("run", "bundle", "delayed")))


_KEPT = tempfile.TemporaryDirectory(prefix="tdmpc-attack-subject-")
