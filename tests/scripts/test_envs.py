"""Laws of ``tdmpc envs``."""

import pytest

from tdmpc.scripts.main import main


def test_a_pattern_selects(capsys: pytest.CaptureFixture[str]) -> None:
    """A part of a name lists what can be trained, one environment a line, with the short name where there is one."""
    assert main(["envs", "walker"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Walker2d-v5" in lines
    assert ["dm_control/walker-walk-v0", "walker-walk"] in [line.split() for line in lines]
    assert all("walker" in line.lower() for line in lines) and lines == sorted(lines)


def test_a_glob_selects(capsys: pytest.CaptureFixture[str]) -> None:
    """A glob has to match the whole of a name."""
    assert main(["envs", "Pend*-v?"]) == 0
    assert capsys.readouterr().out == "Pendulum-v1\n"


def test_without_a_pattern_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """The whole list has the environments of the published results and the user's own, and no discrete ones."""
    assert main(["envs"]) == 0
    names = {name for line in capsys.readouterr().out.splitlines() for name in line.split()}
    assert {"Hopper-v5", "Pendulum-v1", "cartpole-swingup", "reacher-easy", "Toy-v0"} <= names
    assert not {"CartPole-v1", "Taxi-v3", "CliffWalking-v1"} & names


def test_a_reader_may_stop_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list is written in one piece, so that ``tdmpc envs | head`` ends quietly."""
    written = []
    monkeypatch.setattr("builtins.print", lambda *texts, **_: written.append(texts))
    assert main(["envs"]) == 0
    assert len(written) == 1
