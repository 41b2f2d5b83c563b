"""What a run came to, and how two runs are compared: bit for bit, but for the time they took."""

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from tdmpc import checkpoint, runs
from tdmpc import spec as spec_module
from tdmpc.config import TrainConfig
from tdmpc.metrics import read_rows
from tdmpc.trainer import Trainer
from tests.tdmpc.conftest import open_run

CLOCKS = ("time/", "wall_s", "cpu_s", "decisions_per_s", "seconds")


def files_of(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by their names from there on."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Outcome(NamedTuple):
    """All that a run came to, except for how long it took."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    rows: list[dict[str, Any]]


def outcome(trainer: Trainer) -> Outcome:
    tensors, meta = trainer.state()
    return Outcome(tensors, timeless(meta), rows_of(trainer.folder))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [timeless(row) for row in read_rows(folder / runs.METRICS)]


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    """A row, or what else has names, without the time that anything took."""
    return {key: value for key, value in row.items() if not key.startswith(CLOCKS)}


# Where shapes are checked, beartype draws from python's generator: which item of a tuple to look at.
UNOWNED = {"python_rng"} if type(spec_module.__loader__).__module__.startswith("jaxtyping") else set()


def differing(left: Outcome, right: Outcome) -> list[str]:
    """Names of what is not equal, bit for bit; the first rows that differ."""
    assert left.tensors.keys() == right.tensors.keys() and left.meta.keys() == right.meta.keys()
    names = [name for name, tensor in left.tensors.items() if not same(tensor, right.tensors[name])]
    names += [name for name, value in left.meta.items() if value != right.meta[name] and name not in UNOWNED]
    pairs = itertools.zip_longest(left.rows, right.rows)
    return names + [f"{one} != {other}" for one, other in pairs if one != other][:2]


def same(left: Tensor, right: Tensor) -> bool:
    return left.dtype == right.dtype and left.numpy().tobytes() == right.numpy().tobytes()


def whole_run(config: TrainConfig, folder: Path) -> Outcome:
    folder.mkdir()
    trainer = open_run(config, folder)
    trainer.run()
    return outcome(trainer)


def last_saved(folder: Path) -> int:
    """Step of the last good checkpoint, -1 where there is none."""
    return checkpoint.load(folder).meta["agent_steps"] if runs.has_checkpoint(folder) else -1


def deadly(call: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    """A function that dies by SIGKILL, in the middle of what it writes, when it was called so many times."""

    def wrapped(*args: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            if call.__name__ == "save_file":
                args[1].write_bytes(b"the first half of a checkpoint")
            if call.__qualname__ == "JsonlSink.log":
                args[0]._file.write(b'{"kind": "train", "env_st')
            if call.__qualname__ == "Journal.append":
                args[0].path.open("a").write('{"step": 12, "ax')
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **options)

    return wrapped
