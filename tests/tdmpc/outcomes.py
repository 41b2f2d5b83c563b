"""What a run came to, and how two runs are compared: bit for bit, but for the time they took."""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from tdmpc import checkpoint, runs
from tdmpc import spec as spec_module
from tdmpc.config import TrainConfig
from tdmpc.metrics import read_rows
from tdmpc.trainer import Trainer
from tests.tdmpc.conftest import open_run

CLOCKS = ("time/", "wall_s", "cpu_s", "decisions_per_s")


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
    return Outcome(
        tensors, {name: value for name, value in meta.items() if name not in CLOCKS}, rows_of(trainer.folder)
    )


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows = read_rows(folder / runs.METRICS)
    return [{key: value for key, value in row.items() if not key.startswith(CLOCKS)} for row in rows]


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
