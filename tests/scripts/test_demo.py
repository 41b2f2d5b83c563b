"""Laws of the demo's second process; the demo itself is run whole before a release, not here."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tdmpc.runs import RunError
from tdmpc.scripts import demo


def test_what_runs_beside_is_waited_for(tmp_path: Path) -> None:
    """A sub-command beside the main one is over when both are left, and what it said is in its log."""
    log_file = tmp_path / "new" / "envs.log"
    with demo._beside(["envs", "cartpole-swingup"], log_file=log_file):
        pass
    assert "cartpole-swingup" in log_file.read_text()


def test_what_fails_beside_fails_the_demo(tmp_path: Path) -> None:
    """Its failure is an error that names the command and where it told why."""
    log_file = tmp_path / "train.log"
    told = f"'tdmpc train No-v0' failed; what it said is in {log_file}"
    with pytest.raises(RunError, match=told), demo._beside(["train", "No-v0"], log_file=log_file):
        pass
    assert log_file.read_text().startswith("error: ")


def test_who_stops_the_demo_stops_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error or Ctrl-C in the foreground ends the process beside it."""
    started: list[subprocess.Popen[bytes]] = []

    start = subprocess.Popen

    def remembered(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(start(*args, **options))
        return started[-1]

    monkeypatch.setattr(demo.subprocess, "Popen", remembered)
    command = ["train", "Pendulum-v1", "--run-dir", str(tmp_path / "run")]
    with pytest.raises(KeyboardInterrupt), demo._beside(command, log_file=tmp_path / "train.log"):
        raise KeyboardInterrupt
    assert [process.poll() is not None for process in started] == [True]
