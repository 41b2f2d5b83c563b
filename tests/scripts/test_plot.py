"""Laws of ``tdmpc plot``."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tdmpc import runs
from tdmpc.scripts.main import main
from tests.tdmpc.conftest import file_limit


def _curve(path: Path) -> Path:
    rows = [{"kind": "train", "env_steps": 8 * n, "return": float(n)} for n in range(1, 20)]
    runs.write_curve(path, [*rows, {"kind": "eval", "env_steps": 160, "return_mean": 20.0}])
    return path


def test_tables_and_run_folders_are_drawn_alike(tmp_path: Path) -> None:
    """A figure comes out of learning curve tables, named or found in a run folder."""
    (tmp_path / "run").mkdir()
    _curve(tmp_path / "run" / runs.CURVE_TABLE)
    out = tmp_path / "curves.png"
    table = _curve(tmp_path / "one.csv")
    assert main(["plot", str(table), str(tmp_path / "run"), "--env", "cartpole-swingup", "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")


def test_a_figure_that_finds_no_room_is_one_line(tmp_path: Path, fails: Callable[..., str]) -> None:
    """A figure that cannot be written, for want of room or of its folder, is named, and nothing of it stays."""
    table = _curve(tmp_path / "one.csv")
    for out, says in (
        (tmp_path / "a.png", "File too large"),
        (tmp_path / "missing" / "a.png", "No such file or directory"),
    ):
        with file_limit(1000):
            assert fails("plot", str(table), "--out", str(out)).startswith(f"{out}: {says}. ")
    assert list(tmp_path.iterdir()) == [table]


def test_what_is_no_curve_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A path without a learning curve is one clear line and no figure."""
    assert main(["plot", str(tmp_path), "--out", str(tmp_path / "curves.png")]) == 2
    assert "is no learning curve" in capsys.readouterr().err
    assert not (tmp_path / "curves.png").exists()
