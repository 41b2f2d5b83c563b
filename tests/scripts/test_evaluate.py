"""Laws of ``tdmpc evaluate``: what it plays, prints and leaves alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tdmpc import checkpoint, runs
from tdmpc.scripts.main import main
from tests.tdmpc.conftest import file_limit
from tests.tdmpc.outcomes import files_of

PROMISED = {"return_mean", "return_std", "episodes", "env_steps", "ms_per_plan_p50", "parameters", "planning_macs"}


@pytest.fixture
def evaluated(trained: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """What ``--json`` prints for the trained run."""

    def run(*options: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["evaluate", str(trained), "--json", "--episodes=2", "--threads=1", *options]) == 0
        return json.loads(capsys.readouterr().out)  # fails if there is anything but one object

    return run


def test_json_is_one_object(evaluated: Callable[..., dict[str, Any]], trained: Path) -> None:
    """``--json`` prints one object with the promised figures, and the run's own summary agrees with it."""
    printed, left = evaluated(), json.loads((trained / runs.SUMMARY).read_text())
    assert printed.keys() >= PROMISED
    same = PROMISED - {"ms_per_plan_p50"} | {"env", "seed", "precision", "agent_steps"}
    assert {name: printed[name] for name in same} == {name: left[name] for name in same}
    assert (printed["env_steps"], printed["episodes"], printed["policy"]) == (60, 2, "planner")
    assert printed["ms_per_plan_p50"] > 0 and printed["planning_macs"] > printed["parameters"] > 0


def test_episodes_are_the_seeds(evaluated: Callable[..., dict[str, Any]]) -> None:
    """The same seed plays the same episodes again, another seed others, and the prior plays them its own way."""
    planner, prior = evaluated(), evaluated("--policy=prior")
    assert evaluated()["return_mean"] == planner["return_mean"]
    assert evaluated("--seed=5")["return_mean"] != planner["return_mean"]
    assert prior["policy"] == "prior" and prior["return_mean"] != planner["return_mean"]


def test_the_prior_stands_beside_the_planner(evaluated: Callable[..., dict[str, Any]]) -> None:
    """Who plans is also told what the policy network alone returns on the same episodes."""
    planner, prior = evaluated(), evaluated("--policy=prior")
    assert (planner["prior_return_mean"], planner["prior_return_std"]) == (prior["return_mean"], prior["return_std"])


def test_a_smaller_budget(evaluated: Callable[..., dict[str, Any]], fails: Callable[..., str], trained: Path) -> None:
    """An agent can be asked to plan with less, which costs what it says, and with nothing that cannot be."""
    full, less = evaluated(), evaluated("--samples=4", "--iterations=1", "--elites=2", "--horizon=1")
    assert less["planning_macs"] < full["planning_macs"] / 4 and less["return_mean"] != full["return_mean"]
    assert "--planner.elites must be at most" in fails("evaluate", str(trained), "--elites=1000")


def test_precision_is_the_runs_own(evaluated: Callable[..., dict[str, Any]]) -> None:
    """An agent is evaluated as it was trained, unless another precision is asked for."""
    assert evaluated()["precision"] == "float32"
    assert evaluated("--precision=bfloat16")["precision"] == "bfloat16"


def test_a_table_for_the_eye(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without ``--json`` the same figures are a table."""
    assert main(["evaluate", str(trained), "--episodes=1"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in PROMISED)


def test_a_film_of_the_first_episode(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--video`` leaves an mp4 in the run folder and names it; otherwise an evaluation writes nothing."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    before = files_of(folder)
    for option in ([], ["--video"]):
        capsys.readouterr()
        assert main(["evaluate", str(folder), "--episodes=1", "--json", *option]) == 0
        film = folder / runs.VIDEO
        assert film.exists() == bool(option)
        assert {name: content for name, content in files_of(folder).items() if name != film.name} == before
    assert json.loads(capsys.readouterr().out)["video"] == str(film)
    assert film.read_bytes()[4:8] == b"ftyp"


def test_a_film_that_finds_no_room_costs_no_figures(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A film that cannot be written is one line with its path, after the figures have been printed."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    (folder / runs.VIDEO).mkdir()
    for limit, says in ((500, "ffmpeg could not write the film"), (10**6, "Is a directory")):
        capsys.readouterr()
        with file_limit(limit):
            assert main(["evaluate", str(folder), "--episodes=1", "--json", "--video"]) == 2
        captured = capsys.readouterr()
        assert json.loads(captured.out)["episodes"] == 1
        assert captured.err.startswith(f"error: {folder / runs.VIDEO}: {says}") and captured.err.count("\n") == 1
    assert not list(folder.glob(".*.mp4"))


def test_the_last_good_checkpoint_is_evaluated(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fails: Callable[..., str]
) -> None:
    """With a truncated checkpoint the one before it is evaluated; with none that can be read, that is one line."""
    for name in (checkpoint.CURRENT, checkpoint.PREVIOUS, runs.CONFIG):
        shutil.copy(trained / name, tmp_path / name)
    (tmp_path / checkpoint.CURRENT).write_bytes((tmp_path / checkpoint.CURRENT).read_bytes()[:999])
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path), "--episodes=1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["env_steps"] == 0
    (tmp_path / checkpoint.PREVIOUS).write_text("foreign")
    assert "no checkpoint in" in fails("evaluate", str(tmp_path))
