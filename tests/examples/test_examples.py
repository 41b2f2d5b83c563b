"""Laws of the examples: they run as they stand there. ``tests/deploy/test_robot_page.py`` runs the arm and the loop."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

EXAMPLES = ROOT / "examples"
SMALL = {
    "random_steps": 100,
    "max_episode_steps": 40,
    "pretrain_updates": 20,
    "batch_size": 16,
    "eval_episodes": 1,
    "planner": {"samples": 16, "elites": 4, "iterations": 2},
    "model": {"dynamics": (32, 32), "reward": (32, 32), "value": (32, 32), "policy": (32, 32)},
}
"""An agent that trains in seconds; the examples have the default one."""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a folder of its own, trainings are small and draw nothing, and evaluations are short."""
    import tdmpc.scripts.evaluate
    import tdmpc.scripts.prune
    import tdmpc.scripts.train

    train, prune, evaluate = tdmpc.scripts.train.train, tdmpc.scripts.prune.prune, tdmpc.scripts.evaluate.evaluate

    def small(env: str, **settings: Any) -> Path:
        return train(env, **{**settings, **SMALL, "env_steps": 200, "terminates": False})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tdmpc.scripts.train, "train", small)
    monkeypatch.setattr(tdmpc.scripts.train, "write_report", lambda folder: [])
    monkeypatch.setattr(tdmpc.scripts.prune, "prune", lambda run, **o: prune(run, **{**o, "finetune_steps": 100}))
    monkeypatch.setattr(tdmpc.scripts.evaluate, "evaluate", lambda run, **o: evaluate(run, **{**o, "episodes": 1}))


@pytest.mark.slow
def test_ten_lines_train_prune_evaluate_and_export(quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    """The example of the Python interface tells two returns, and leaves a bundle."""
    text = (EXAMPLES / "train.py").read_text()
    assert len([line for line in text.splitlines() if line and not line.startswith('"""')]) <= 10
    runpy.run_path(str(EXAMPLES / "train.py"))
    shown = capsys.readouterr().out
    assert shown.count(": return ") == 2 and Path("pendulum-bundle/manifest.json").exists()


@pytest.mark.slow
def test_the_notebook_runs(quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Every cell of the notebook runs, one after the other, and none was committed with output."""
    cells = [cell for cell in json.loads((EXAMPLES / "tour.ipynb").read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    names: dict[str, Any] = {}
    for cell in cells:
        exec("".join(cell["source"]), names)
    assert capsys.readouterr().out.count("ms a decision") == 2
    assert len(names["axes"].lines) == 2 and (names["bundle"] / "planner.onnx").exists()
