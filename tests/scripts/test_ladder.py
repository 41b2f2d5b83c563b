"""Laws of a ladder of agents: what is kept at each rung, kills, what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tdmpc import checkpoint, runs
from tdmpc.scripts.main import main
from tdmpc.trainer import Trainer
from tests.scripts.conftest import TINY
from tests.tdmpc.conftest import TOY
from tests.tdmpc.lives import differing
from tests.tdmpc.outcomes import files_of

PRUNING = ["--min-width=2", "--events=2", "--no-guard"]
TRAIN = ["train", TOY, *TINY, *(f"--prune.{option[2:]}" for option in PRUNING)]


def left(run: Path) -> float:
    """The share of a plan's multiply-adds that a run's agent has kept."""
    figures = json.loads((run / runs.SUMMARY).read_text())
    return figures["planning_macs"] / figures["planning_macs_dense"]


def rungs_of(run: Path, *shares: str) -> list[Path]:
    return [run.with_name(f"{run.name}-{share}") for share in shares]


def test_a_training_keeps_each_rung(tmp_path: Path, toy: None) -> None:
    """--prune.ladder leaves the dense run and one for each rung, trained on; they evaluate and resume like any."""
    run = tmp_path / "run"
    assert main([*TRAIN, "--prune.ladder", "0.3", "0.6", f"--run-dir={run}"]) == 0
    low, high = rungs_of(run, "0.3", "0.6")
    assert left(run) == 1 and 0.4 < left(low) <= 0.7 and left(high) <= 0.4
    assert [json.loads((each / runs.SUMMARY).read_text())["env_steps"] for each in (run, low, high)] == [60, 72, 84]
    assert main(["train", "--resume", str(low), "--env-steps=90"]) == 0
    assert left(low) > 0.4 and main(["evaluate", str(high), "--episodes=1", "--threads=1"]) == 0


class Killed(BaseException):
    """The process is gone."""


def test_a_killed_ladder_goes_on_bit_for_bit(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy: None
) -> None:
    """The same command after a kill leaves finished rungs alone and makes the agents that it would have made."""
    command = ["prune", str(trained), *PRUNING, "--ladder", "0.3", "0.6", "--finetune-steps=12"]
    assert main([*command, f"--run-dir={tmp_path / 'whole'}"]) == 0
    decide = Trainer._decide

    def killed(trainer: Trainer) -> None:
        if trainer.env_steps == 81:
            raise Killed
        decide(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_decide", killed)
        with pytest.raises(Killed):
            main([*command, f"--run-dir={tmp_path / 'killed'}"])
    low, high = rungs_of(tmp_path / "killed", "0.3", "0.6")
    before = files_of(low)
    assert not (high / runs.SUMMARY).exists()
    assert main([*command, f"--run-dir={tmp_path / 'killed'}"]) == 0
    assert files_of(low) == before
    for one, other in zip((low, high), rungs_of(tmp_path / "whole", "0.3", "0.6"), strict=True):
        assert differing(checkpoint.load(one).tensors, checkpoint.load(other).tensors) == []


def test_a_half_copied_rung_is_copied_again(trained: Path, tmp_path: Path, toy: None) -> None:
    """A kill while a run was copied into its rung does not stop the ladder."""
    low, high = rungs_of(tmp_path / "run", "0.3", "0.6")
    low.mkdir()
    shutil.copy(trained / runs.CONFIG, low)
    ladder = ["--ladder", "0.3", "0.6", "--finetune-steps=12", f"--run-dir={tmp_path / 'run'}"]
    assert main(["prune", str(trained), *PRUNING, *ladder]) == 0
    assert left(low) <= 0.7 and left(high) <= 0.4


def test_another_run_is_no_rung(
    trained: Path, tmp_path: Path, fails: Callable[..., str], capsys: pytest.CaptureFixture[str], toy: None
) -> None:
    """A folder of another run where a rung would be is refused and stays as it is."""
    (low,) = rungs_of(tmp_path / "run", "0.3")
    assert main(["prune", str(trained), *PRUNING, "--target=0.6", "--finetune-steps=12", f"--run-dir={low}"]) == 0
    before = files_of(low)
    capsys.readouterr()
    said = fails("prune", str(trained), *PRUNING, "--ladder", "0.3", "0.6", f"--run-dir={tmp_path / 'run'}")
    assert f"{low} is another run" in said and files_of(low) == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--prune.ladder", "0.5"], "must have two rungs or more, got 0.5"),
        (["--prune.ladder", "0.5", "1"], "above 0 and below 1, got 0.5 1"),
        (["--prune.ladder", "0.6", "0.3"], "must rise, as each rung is pruned from the one before, got 0.6 0.3"),
        (["--prune.ladder", "0.3", "0.6", "--prune.target=0.5"], "leave out --prune.target"),
        (["--prune.ladder", "0.3", "0.99"], "--prune.target 0.99 cannot be reached"),
    ],
    ids=["one", "whole", "falling", "target", "unreachable"],
)
def test_a_ladder_that_cannot_be_climbed_is_refused(
    options: list[str], says: str, trained: Path, tmp_path: Path, fails: Callable[..., str], toy: None
) -> None:
    """One line says what is wrong with a ladder, before anything is trained, in training and for a finished run."""
    siblings = set(trained.parent.iterdir())
    assert says in fails(*TRAIN, *options, f"--run-dir={tmp_path / 'run'}")
    own = [option.replace("--prune.", "--") for option in options]
    assert says.replace("--prune.", "--") in fails("prune", str(trained), *PRUNING, *own)
    assert not (tmp_path / "run").exists() and set(trained.parent.iterdir()) == siblings
