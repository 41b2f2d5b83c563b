"""Laws of ``tdmpc robustness``: one table and one figure, agents on the same episodes."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tdmpc.config import PerturbConfig
from tdmpc.scripts import robustness
from tdmpc.scripts.main import main
from tdmpc.scripts.robustness import FAULTS, STRENGTHS, perturbed


def table(trained: Path, out: Path, *options: str) -> list[dict[str, str]]:
    twin = out.parent / "twin"
    shutil.copytree(trained, twin, dirs_exist_ok=True)
    command = ["robustness", str(trained), str(twin), "--episodes=2", "--threads=1", f"--out={out}", *options]
    assert main(command) == 0
    with out.with_suffix(".csv").open() as file:
        return list(csv.DictReader(file))


def test_agents_are_paired(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same agent under two names has the same returns everywhere, and noise changes them."""
    rows = table(trained, tmp_path / "found", "--only", "observation_noise", "action_noise")
    first, second = ([row for row in rows if row["agent"] == name] for name in ("trained", "twin"))
    assert len(first) == 1 + 2 * 3 and [row | {"agent": "twin"} for row in first] == second
    assert [row["strength"] for row in first] == ["0.0", "0.1", "0.3", "1.0", "0.1", "0.3", "1.0"]
    assert len({row["return_mean"] for row in first}) == len(first)
    out = capsys.readouterr().out
    assert all(word in out for word in ("trained", "twin", "observation noise", "found.csv", "found.png"))
    assert (tmp_path / "found.png").read_bytes()[1:4] == b"PNG"


def test_what_the_environment_cannot_have(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Perturbations that the environment cannot have are left out and named."""
    monkeypatch.setattr(robustness, "STRENGTHS", {"masses": (0.1,), "stuck_sensors": (0.1,)})
    rows = table(trained, tmp_path / "found")
    assert {row["perturbation"] for row in rows} == {"none", "stuck_sensors"}
    assert "masses is left out: Toy-v0 has no MuJoCo model" in caplog.text


def test_what_cannot_be_played_is_one_line(trained: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    """No run, and a perturbation asked for that the environment cannot have, are refused in one line."""
    assert "which agents?" in fails("robustness")
    options = ("--only", "masses", f"--out={tmp_path / 'found'}", "--episodes=1")
    assert "--perturb.masses would change" in fails("robustness", str(trained), *options)


def test_one_perturbation_at_a_time() -> None:
    """Each strength of the table sets its own perturbation; a fault lasts as long as the challenge says."""
    for name, strengths in STRENGTHS.items():
        for strength in strengths:
            found = perturbed(name, strength)
            duration = FAULTS.get(strength, 1)
            assert found == PerturbConfig(**{name: getattr(found, name), "fault_decisions": duration})
            assert getattr(found, name) == strength
    assert perturbed("none", 0.0) == PerturbConfig()
