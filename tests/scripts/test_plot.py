"""Laws of ``tdmpc plot``."""

from pathlib import Path

import pytest

from scripts.main import main
from tdmpc import runs


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


def test_what_is_no_curve_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A path without a learning curve is one clear line and no figure."""
    assert main(["plot", str(tmp_path), "--out", str(tmp_path / "curves.png")]) == 2
    assert "is no learning curve" in capsys.readouterr().err
    assert not (tmp_path / "curves.png").exists()
