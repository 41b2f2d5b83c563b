"""Laws of pruning on the command line: while training, of a finished run, what is told, what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tdmpc import checkpoint, pages, runs
from tdmpc.compression.records import EVENTS, IMPORTANCE, read
from tdmpc.metrics import read_rows
from tdmpc.scripts.main import main
from tdmpc.scripts.report.command import PAGE
from tests.scripts.conftest import TINY
from tests.tdmpc.conftest import TOY, file_limit, registered
from tests.tdmpc.outcomes import files_of
from tests.tdmpc.wandb_files import history_of, logs_of

PRUNE = ["--prune.target=0.6", "--prune.min-width=2", "--prune.events=3", "--prune.no-guard"]


@pytest.fixture(scope="session")
def pruned(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the settings of ``trained``, pruned while it trained; tests read it only."""
    folder = tmp_path_factory.mktemp("runs") / "pruned"
    with registered():
        assert main(["train", TOY, *TINY, *PRUNE, f"--run-dir={folder}"]) == 0
    return folder


def evaluated(run: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    capsys.readouterr()
    assert main(["evaluate", str(run), "--episodes=1", "--json", "--threads=1"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_is_pruned_while_it_trains(
    pruned: Path, trained: Path, capsys: pytest.CaptureFixture[str], toy: None
) -> None:
    """--prune.target ends with an ordinary checkpoint at the target; evaluation tells what was removed of the dense."""
    figures, dense = evaluated(pruned, capsys), evaluated(trained, capsys)
    assert 0.3 < figures["planning_macs"] / figures["planning_macs_dense"] <= 0.4
    assert figures["parameters"] < figures["parameters_dense"]
    for name in ("planning_macs", "parameters"):
        assert figures[f"{name}_dense"] == dense[f"{name}_dense"] == dense[name]
    events = read(pruned / EVENTS)
    assert [event["decision"] for event in events] == ["kept"] * 3
    assert events[-1]["cost"]["macs"] == {
        "dense": figures["planning_macs_dense"],
        "before": events[-2]["cost"]["macs"]["after"],
        "after": figures["planning_macs"],
    }
    assert read(pruned / IMPORTANCE)[-1]["axes"].keys() == events[-1]["widths"].keys()


def test_a_dense_run_can_be_watched(tmp_path: Path, toy: None, pictures: None) -> None:
    """--prune.observe without a target leaves every criterion's scores and the page, and an agent of the same size."""
    folder = tmp_path / "watched"
    assert main(["train", TOY, *TINY, "--prune.observe", f"--run-dir={folder}"]) == 0
    shots = read(folder / IMPORTANCE)
    assert shots and all({"gradient", "l2"} <= shot["criteria"].keys() == shot["levels"].keys() for shot in shots)
    assert read(folder / EVENTS) == [] and (folder / PAGE).exists()


def test_settings_are_written_filled_in(pruned: Path) -> None:
    """config.json has the dense widths and all settings of pruning, those that follow from the run included."""
    written = json.loads((pruned / runs.CONFIG).read_text())
    assert written["config"]["model"]["latent"] == 8
    assert (written["prune"]["start"], written["prune"]["end"]) == (20 + 4, 20 + 16)
    assert [event["env_steps"] for event in read(pruned / EVENTS)] == [28, 32, 36]


def test_a_pruned_run_goes_on(pruned: Path, tmp_path: Path, toy: None) -> None:
    """--resume goes on with the smaller agent and changes nothing of how it is pruned."""
    folder = tmp_path / "run"
    shutil.copytree(pruned, folder)
    before = read(folder / EVENTS)
    assert main(["train", "--resume", str(folder), "--env-steps=75"]) == 0
    assert read(folder / EVENTS) == before
    assert checkpoint.load(folder).meta["config"]["model"] == checkpoint.load(pruned).meta["config"]["model"]
    assert read_rows(folder / runs.METRICS)[-2]["prune/events"] == 3


def test_pruning_cannot_change_when_a_run_goes_on(pruned: Path, fails: Callable[..., str], toy: None) -> None:
    """Other settings of pruning with --resume are refused."""
    assert "prune cannot change" in fails("train", "--resume", str(pruned), "--prune.target=0.7")


def test_a_finished_run_can_be_pruned(trained: Path, tmp_path: Path, toy: None) -> None:
    """``tdmpc prune`` leaves the run as it is and makes one that is smaller, trained on, and goes on like any other."""
    before = files_of(trained)
    folder = tmp_path / "smaller"
    options = ["--target=0.6", "--min-width=2", "--events=2", "--no-guard", "--finetune-steps=30"]
    assert main(["prune", str(trained), *options, f"--run-dir={folder}"]) == 0
    assert files_of(trained) == before
    summary = json.loads((folder / runs.SUMMARY).read_text())
    assert summary["env_steps"] == 90 and summary["planning_macs"] <= 0.4 * summary["planning_macs_dense"]
    rows = [row["env_steps"] for row in read_rows(folder / runs.METRICS)]
    assert rows[0] == 9 and rows[-1] == 90
    assert [event["env_steps"] for event in read(folder / EVENTS)] == [68, 72]
    again = tmp_path / "again"
    assert main(["prune", str(folder), *options[1:], "--target=0.8", f"--run-dir={again}"]) == 0
    assert json.loads((again / runs.SUMMARY).read_text())["planning_macs_dense"] == summary["planning_macs_dense"]


def copy_without(trained: Path, folder: Path, name: str) -> Path:
    shutil.copytree(trained, folder)
    (folder / name).unlink()
    return folder


def test_a_run_without_metrics_can_be_pruned(trained: Path, tmp_path: Path, toy: None) -> None:
    """A run whose metrics are gone is pruned like any other; the record of the new one begins with it."""
    run, folder = copy_without(trained, tmp_path / "run", runs.METRICS), tmp_path / "smaller"
    options = ["--target=0.6", "--min-width=2", "--events=2", "--no-guard", "--finetune-steps=30"]
    assert main(["prune", str(run), *options, f"--run-dir={folder}"]) == 0
    assert [row["env_steps"] for row in read_rows(folder / runs.METRICS)] == [63, 72, 81, 90, 90]


def break_metrics(run: Path) -> None:
    (run / runs.METRICS).write_text("torn\n")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (break_metrics, "metrics.jsonl, line 1: this is no row of metrics"),
        (lambda run: (run / runs.CONFIG).write_text("{}"), "is no run folder"),
        (lambda run: [shutil.rmtree(run / name) for name in pages.FOLDERS], "no checkpoint in"),
    ],
    ids=["metrics", "config", "pages"],
)
def test_a_run_that_cannot_be_copied_leaves_no_folder(
    trained: Path, tmp_path: Path, fails: Callable[..., str], spoil: Callable[[Path], Any], says: str, toy: None
) -> None:
    """What cannot be read of a run is one line, before the new folder is made."""
    shutil.copytree(trained, tmp_path / "run")
    spoil(tmp_path / "run")
    assert says in fails("prune", str(tmp_path / "run"), "--min-width=2")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_full_disk_leaves_no_half_of_a_copy(
    trained: Path, tmp_path: Path, fails: Callable[..., str], toy: None
) -> None:
    """Where the copy of a run does not fit onto the disk, one line says so, and nothing of it is left."""
    folder = tmp_path / "smaller"
    with file_limit(4000):
        said = fails("prune", str(trained), "--min-width=2", f"--run-dir={folder}")
    assert f"cannot copy {trained} to {folder}: " in said and "--resume" not in said
    assert not folder.exists()


def test_a_prune_without_aim_is_refused(trained: Path, fails: Callable[..., str], toy: None) -> None:
    """Nothing to remove, nothing to train, or a component that there is not: one line, and no folder."""
    siblings = set(trained.parent.iterdir())
    assert "--target must be above 0" in fails("prune", str(trained), "--target=0")
    assert "--finetune-steps must be positive" in fails("prune", str(trained), "--finetune-steps=0")
    assert "--keep: there is no component critic" in fails("prune", str(trained), "--keep=critic", "--min-width=2")
    assert set(trained.parent.iterdir()) == siblings


def test_mistakes_are_told_before_training(tmp_path: Path, fails: Callable[..., str], toy: None) -> None:
    """A target that cannot be is one line, before the run folder is made."""
    folder = tmp_path / "run"
    for wrong in ("--prune.target=1.0", "--prune.target=-0.5"):
        assert "--prune.target must be at least 0 and below 1" in fails(
            "train", TOY, *TINY, wrong, f"--run-dir={folder}"
        )
    late = ["--prune.target=0.5", "--prune.min-width=2", "--prune.end=61"]
    assert "the end of training" in fails("train", TOY, *TINY, *late, f"--run-dir={folder}")
    assert not folder.exists()


@pytest.mark.slow
def test_events_go_to_wandb(offline_wandb: None, tmp_path: Path, toy: None) -> None:
    """W&B gets the events as a table and the importance of each axis as histograms."""
    folder = tmp_path / "run"
    assert main(["train", TOY, *TINY, *PRUNE, "--wandb=offline", f"--run-dir={folder}"]) == 0
    (records,) = logs_of(folder)
    history = history_of(records)
    tables = [row for row in history if row.get("prune/event_table/_type") == "table-file"]
    assert [row["prune/event_table/nrows"] for row in tables] == [1, 2, 3]
    assert any(row.get("importance/latent/_type") == "histogram" for row in history)
