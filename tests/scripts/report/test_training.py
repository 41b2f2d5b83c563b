"""Laws of the figures: written whole, of a known size, whatever the rows lack, without touching matplotlib's state."""

import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tdmpc.scripts.report import style, training
from tdmpc.scripts.report.training import PUBLISHED, learning_curve, running_mean, series, training_panels

CARTPOLE = "dm_control/cartpole-swingup-v0"


def full_rows(count: int = 20) -> list[dict[str, Any]]:
    """Rows as a run writes them, losses after the random start."""
    rows: list[dict[str, Any]] = []
    for episode in range(1, count + 1):
        step = 1000 * episode
        row = {"kind": "train", "env_steps": step, "return": 40.0 * episode, "decisions_per_s": 20.0}
        row |= {"std": 0.5 - 0.02 * episode, "horizon": 1 + episode // 5, "note": "text"}
        if episode > 5:
            row |= {f"loss/{name}": 1.0 / episode**3 for name in ("consistency", "reward", "value", "termination")}
            row |= {"loss/policy": -1.0 * episode, "grad_norm/model": 2.0, "grad_norm/policy": 0.1}
            row |= {"time/plan_ms": 20.0, "time/update_ms": 30.0}
        rows.append(row)
        if episode % 5 == 0:
            rows.append(
                {"kind": "eval", "env_steps": step, "return_mean": 41.0 * episode, "return_std": 9.0, "episodes": 5}
            )
    return rows


SPARSE = {
    "nothing": [],
    "one training row": full_rows(1),
    "one evaluation": [{"kind": "eval", "env_steps": 8, "return_mean": 1.0}],
    "no values": [{"kind": "train", "env_steps": 8}, {"kind": "eval", "env_steps": 8}],
    "null values": [{"kind": "train", "env_steps": 8, "return": None, "loss/value": None}],
    "not finite": [{"kind": "train", "env_steps": 8, "return": float("nan"), "loss/value": float("inf")}],
    "zero losses": [
        {"kind": "train", "env_steps": s, "loss/reward": 0.0, "loss/value": 0.0, "std": 0.0} for s in (0, 8)
    ],
    "at step zero": [{"kind": "train", "env_steps": 0, "return": 0.0, "horizon": 1}],
    "negative returns": [{"kind": "train", "env_steps": s, "return": -1600.0 + s} for s in (200, 400)],
    "another kind": [{"kind": "prune", "env_steps": 8, "sparsity": 0.5}],
}


def image_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_learning_curve_of_several_runs(tmp_path: Path) -> None:
    """A full figure is one PNG of 1400 x 920 pixels with something drawn, and no other file stays."""
    path = tmp_path / "curve.png"
    runs = {f"seed {seed}": full_rows() for seed in range(3)}
    learning_curve(runs, path, title="cartpole-swingup", published=PUBLISHED[CARTPOLE])
    image = image_of(path)
    assert image.shape == (920, 1400, 3)
    assert (image < 128).any(axis=2).sum() > 5000
    assert list(tmp_path.iterdir()) == [path]


def test_training_panels(tmp_path: Path) -> None:
    """Rows with every key fill three rows of three panels, 2000 x 1320 pixels."""
    training_panels(full_rows(), tmp_path / "panels.png", title="cartpole-swingup")
    assert image_of(tmp_path / "panels.png").shape == (1320, 2000, 3)


@pytest.mark.parametrize("rows", SPARSE.values(), ids=SPARSE.keys())
@pytest.mark.filterwarnings("error")
def test_whatever_the_rows_lack(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    """Single rows, missing keys and values that are not finite still give both figures, without a warning."""
    learning_curve({"run": rows}, tmp_path / "curve.png", title="a run")
    training_panels(rows, tmp_path / "panels.png")
    assert image_of(tmp_path / "curve.png").shape == (920, 1400, 3)
    assert image_of(tmp_path / "panels.png").shape[:2] in ((440, 2000), (880, 2000))


def test_a_failed_figure_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure is replaced whole: when drawing fails the old file is untouched and no temporary one stays."""
    path = tmp_path / "curve.png"
    path.write_bytes(b"old")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(style.Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        learning_curve({"run": full_rows()}, path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_running_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """The running mean is centred and takes fewer values at both ends."""
    monkeypatch.setattr(training, "WINDOW", 3)
    np.testing.assert_allclose(running_mean(pd.Series([1.0, 3.0, 8.0])), [2, 4, 5.5])
    assert running_mean(pd.Series(dtype=float)).empty


def test_rows_are_drawn_in_order_of_steps() -> None:
    """Rows may come in any order, and those without a finite value are left out."""
    rows = [{"env_steps": 16, "a": 2}, {"env_steps": 8, "a": 1.0}, {"env_steps": 24, "a": None}, {"env_steps": 32}]
    assert series(rows, "a").to_dict() == {8: 1, 16: 2}


def test_published_returns() -> None:
    """The published table has four tasks by canonical id, at the same six steps each."""
    assert set(PUBLISHED) == {f"dm_control/{task}-v0" for task in _TASKS}
    assert {tuple(curve) for curve in PUBLISHED.values()} == {(20_000, 40_000, 60_000, 100_000, 200_000, 500_000)}
    assert PUBLISHED[CARTPOLE][60_000] == 825


_TASKS = ("cartpole-swingup", "reacher-easy", "walker-walk", "cheetah-run")


def test_matplotlib_state_is_left_alone(tmp_path: Path) -> None:
    """Drawing imports no pyplot and changes no global setting of matplotlib."""
    program = f"""
import sys, matplotlib
from tdmpc.scripts.report.training import learning_curve, training_panels

def settings():  # reading the backend would choose one, and import pyplot
    return {{name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}}

before = settings()
rows = [{{"kind": "train", "env_steps": 8, "return": 1.0, "loss/value": 0.5}}]
learning_curve({{"run": rows}}, {str(tmp_path / "a.png")!r})
training_panels(rows, {str(tmp_path / "b.png")!r})
assert settings() == before
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
