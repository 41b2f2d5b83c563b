"""Laws of ``tdmpc report``."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tdmpc import checkpoint, runs
from tdmpc.checkpoint import below
from tdmpc.compression.records import EVENTS, read
from tdmpc.scripts.main import main
from tdmpc.scripts.report.command import PAGE, TIMES
from tests.scripts.conftest import TINY
from tests.tdmpc.conftest import TOY, file_limit, registered

DENSE = {runs.CURVE, runs.PANELS}
PRUNED = DENSE | {"importance.png", "units.png", "widths.png", "outcome.png", "events.png"}
PRUNING = ["--prune.target=0.5", "--prune.events=3", "--prune.min-width=2", "--prune.no-guard", "--prune.start=30"]


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that was pruned; tests read it only."""
    folder = tmp_path_factory.mktemp("runs") / "pruned"
    with registered():
        assert main(["train", TOY, *TINY, *PRUNING, "--prune.end=50", f"--run-dir={folder}"]) == 0
    return folder


def copied(folder: Path, to: Path) -> Path:
    for path in shutil.copytree(folder, to).glob("*.png"):
        path.unlink()
    (to / PAGE).unlink(missing_ok=True)
    return to


def pictures(folder: Path) -> set[str]:
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.glob("*.png"))
    return {path.name for path in folder.glob("*.png")}


def test_a_pruned_run_leaves_all_pictures(pruned: Path) -> None:
    """A pruned run ends with the pictures of pruning and a page that has every event."""
    assert pictures(pruned) == PRUNED
    text = (pruned / PAGE).read_text()
    assert read(pruned / EVENTS)
    assert text.count("<td>kept</td>") == len(read(pruned / EVENTS))


def test_a_report_can_be_made_again(pruned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``tdmpc report`` writes pictures and page from the records alone, and says where they are."""
    folder = copied(pruned, tmp_path / "run")
    assert main(["report", str(folder)]) == 0
    assert pictures(folder) == PRUNED
    assert set(capsys.readouterr().out.split()) == {str(folder / name) for name in (*PRUNED, PAGE)}


def test_a_dense_run_has_a_report_too(trained: Path, tmp_path: Path) -> None:
    """A run without pruning has its curves and a page that says that nothing was pruned."""
    folder = copied(trained, tmp_path / "run")
    assert main(["report", str(folder)]) == 0
    assert pictures(folder) == DENSE
    assert "Nothing was pruned: the run was started without --prune.target." in (folder / PAGE).read_text()


def test_a_run_under_way_has_a_report(pruned: Path, tmp_path: Path) -> None:
    """Before its end a run is reported as far as it came, be it without a single row."""
    folder = copied(pruned, tmp_path / "run")
    (folder / runs.SUMMARY).unlink()
    (folder / EVENTS).unlink()
    assert main(["report", str(folder)]) == 0
    assert pictures(folder) == PRUNED - {"outcome.png", "events.png"}
    text = (folder / PAGE).read_text()
    assert "not finished" in text and "no event yet on the way to 50%" in text
    for name in (runs.METRICS, "importance.jsonl"):
        (folder / name).unlink()
    assert main(["report", str(folder)]) == 0


def test_the_result_is_that_of_the_summary(pruned: Path) -> None:
    """Return and sizes on the page are those that the run's summary has."""
    summary, text = json.loads((pruned / runs.SUMMARY).read_text()), (pruned / PAGE).read_text()
    assert f"{summary['return_mean']:.1f} ± {summary['return_std']:.1f}" in text
    assert f"{summary['planning_macs']:,} of {summary['planning_macs_dense']:,}" in text


def test_ranges_of_sensors_are_told(pruned: Path) -> None:
    """The page has the least and the largest reading of each sensor that the replay holds."""
    ((low, high),) = [json.loads((pruned / runs.SUMMARY).read_text())["sensors"]["observation"][:1][0]]
    rows = below("replay", checkpoint.load(pruned).tensors)
    readings = rows["rows"][rows["is_transition"].bool()][:, 0]
    assert (low, high) == (readings.min().item(), readings.max().item()) and low < high
    assert f"<td>{low:.3g} to {high:.3g}; " in (pruned / PAGE).read_text()


def test_the_dense_run_stands_beside_the_pruned_one(pruned: Path, trained: Path, tmp_path: Path) -> None:
    """A run named RUN-dense, or one that is given, has its column of results beside the run's."""
    folder = copied(pruned, tmp_path / "run")
    for given, name in (([], "run-dense"), (["--dense", str(trained)], trained.name)):
        if not given:
            copied(trained, tmp_path / name)
        assert main(["report", str(folder), *given]) == 0
        text = (folder / PAGE).read_text()
        assert f'<th scope="col">run</th><th scope="col">{name}</th>' in text
        dense, summary = (json.loads((path / runs.SUMMARY).read_text()) for path in (trained, folder))
        assert f"<td>{dense['return_mean']:.1f} ±" in text and f"<td>{summary['return_mean']:.1f} ±" in text


def test_times_of_decisions_stand_on_the_page(
    trained: Path, tmp_path: Path, fails: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """What ``tdmpc latency`` wrote into the run folder is a table; another file is refused by name."""
    folder = copied(trained, tmp_path / "run")
    row = {"bundle": "b/small", "backend": "onnxruntime", "precision": "float32", "threads": 1, "mode": "single"}
    times = {"p50_ms": 1.234, "p99_ms": 2.5, "p999_ms": None, "max_ms": 7.0, "processor": "A processor"}
    (folder / TIMES).write_text(json.dumps([{**row, **times}]))
    assert main(["report", str(folder)]) == 0
    text = (folder / PAGE).read_text()
    assert "<td>small, onnxruntime float32 x 1, one after the other</td><td>1.23</td><td>2.50</td><td>-</td>" in text
    capsys.readouterr()
    (tmp_path / "other.json").write_text("{}x")
    assert "is not what tdmpc latency --json writes" in fails("report", str(folder), f"--latency={tmp_path}/other.json")
    assert f"{tmp_path} has no summary.json" in fails("report", str(folder), f"--dense={tmp_path}")


def test_a_folder_without_a_run_is_refused(tmp_path: Path, fails: Callable[..., str]) -> None:
    """What is no run folder is named, and nothing is written there."""
    assert fails("report", str(tmp_path)).startswith(f"{tmp_path} is no run folder")
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_does_not_fit_is_one_line(
    trained: Path, tmp_path: Path, fails: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture or a page that the disk has no room for is named, and the old one stays."""
    folder = copied(trained, tmp_path / "run")
    assert main(["report", str(folder)]) == 0
    (folder / runs.CURVE).write_bytes(b"old")
    capsys.readouterr()
    with file_limit(1000):
        assert fails("report", str(folder)) == (
            f"{folder / runs.CURVE}: File too large. Raise the limit on the size of files, then run the command again"
        )
    assert (folder / runs.CURVE).read_bytes() == b"old"
    with file_limit((folder / PAGE).stat().st_size - 1):
        assert fails("report", str(folder)).startswith(f"{folder / PAGE}: File too large. ")


def test_a_broken_record_is_named(pruned: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    """A line that is no record is told with its file and number; so is one of metrics."""
    for name in (EVENTS, runs.METRICS):
        folder = copied(pruned, tmp_path / name)
        lines = (folder / name).read_text().splitlines(keepends=True)
        (folder / name).write_text("".join([lines[0], "torn\n", *lines[1:]]))
        said = fails("report", str(folder))
        assert said.startswith(f"{folder / name}, line 2: ") and "remove that line" in said
