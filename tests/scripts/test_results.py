"""Laws of ``tdmpc results``: what is collected is what runs left, and pages show nothing else."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tdmpc import runs
from tdmpc.scripts import csv_tables
from tdmpc.scripts.collect import collect, speed
from tdmpc.scripts.collect_pruning import rank_correlation, returns_around
from tdmpc.scripts.csv_tables import write_table
from tdmpc.scripts.estimates import interquartile_mean, mean
from tdmpc.scripts.main import main
from tests.tdmpc.conftest import file_limit

ROOT = Path(__file__).resolve().parents[2]
SUMMARY = {
    **{"env": "toy", "seed": 0, "return_mean": 10.0, "return_std": 1.5, "episodes": 2, "env_steps": 400},
    **{"agent_steps": 400, "wall_s": 90.0, "ms_per_plan_p50": 2.0, "planning_macs": 25, "planning_macs_dense": 100},
    **{"parameters": 5, "parameters_dense": 10, "precision": "float32", "threads": 1, "load_average": 0.5},
    **{"processor": "a processor", "torch": "2.0"},
}


def read_table(path: Path) -> list[dict[str, Any]]:
    return csv_tables.read_table(path).to_dict("records")


def episode(env_steps: int, value: float) -> dict[str, Any]:
    """A training episode of 100 steps, each with one decision of 1 ms and one update of 3 ms."""
    return {
        **{"kind": "train", "env_steps": env_steps, "agent_steps": env_steps, "updates": env_steps, "return": value},
        **{"time/plan_ms": 1.0, "time/update_ms": 3.0, "decisions_per_s": 250.0},
    }


EPISODES = [episode(100, 1.0), episode(200, 2.0), episode(300, 3.0), episode(400, 6.0)]
EVENT = {
    **{"event": 1, "env_steps": 150, "updates": 150, "criterion": "l2", "allocation": "global", "budget": "macs"},
    **{"goal": 0.5, "decision": "kept", "reason": "", "blamed": "", "rested": [], "seconds": 0.1},
    **{"axes": {"policy.0": {"before": 4, "after": 2}}, "widths": {"policy.0": 2, "latent": 3}},
    **{"losses": {"before": {"value": 1.0}, "after": {"value": 2.0}}, "worsening": {"value": 0.2, "plan": 0.3}},
    "cost": {"macs": {"dense": 100, "before": 100, "after": 25}, "parameters": {"dense": 10, "before": 10, "after": 5}},
}


def snapshot(env_steps: int, scores: Sequence[float], units: Sequence[int] = (0, 1, 2, 3)) -> dict[str, Any]:
    return {
        "env_steps": env_steps,
        "event": 0,
        "axes": {"policy.0": {"units": [list(units)], "scores": [list(scores)]}},
    }


SNAPSHOTS = [snapshot(0, (1, 2, 3, 4)), snapshot(100, (4, 3, 2, 1)), snapshot(200, (4, 3, 1), (0, 1, 3))]
LATENCY = {
    **{"bundle": "/somewhere/bundle", "backend": "onnxruntime", "precision": "fp32", "threads": 1, "mode": "single"},
    **{"p50_ms": 2.0, "p99_ms": 3.0, "calls": 1000, "return_mean": 10.0, "contended": True},
}
VALIDATE = {"bundle": "/somewhere/bundle", "backend": "onnxruntime", "precision": "fp32", "episodes": 5}
VALIDATE |= {"bundle_return_mean": 9.0, "torch_return_mean": 8.0}
SHORT = {"backend": "openvino", "episodes": 2, "bundle_return_mean": 7.0, "torch_return_mean": 7.5}


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A suite of one finished pruned run, one that failed, and one that was not begun."""
    folder = tmp_path / "made-up"
    run = folder / "toy" / "l2-0"
    run.mkdir(parents=True)
    command = f"tdmpc train toy --seed 0 --run-dir /once/made/here/toy/l2-{'{}'}"
    write_table(
        folder / "summary.csv",
        [
            {"task": "toy", "method": "l2", "seed": seed, "status": status, "command": command.format(seed)}
            for seed, status in ((0, "waiting"), (1, "failed"), (2, "waiting"))
        ],
    )
    runs.write_json(run / runs.SUMMARY, SUMMARY)
    runs.write_json(run / runs.CONFIG, {"config": {"compile": False}})
    (run / runs.METRICS).write_text(lines(*EPISODES))
    runs.write_curve(run / runs.CURVE_TABLE, EPISODES)
    (run / "events.jsonl").write_text(lines(EVENT))
    (run / "importance.jsonl").write_text(lines(*SNAPSHOTS))
    runs.write_json(run / "latency.json", [LATENCY, {**LATENCY, "backend": "torch", "bundle": "/somewhere/l2-0"}])
    runs.write_json(run / "validate.json", VALIDATE)
    runs.write_json(run / "validate_short.json", {**VALIDATE, **SHORT})
    return folder


@pytest.fixture
def collected(suite: Path, tmp_path: Path) -> Path:
    """The tables of the made-up suite, in a checkout of nothing else."""
    out = tmp_path / "checkout" / "results" / "made-up"
    assert main(["results", "collect", str(suite), "--out", str(out), "--revision", "abc"]) == 0
    return out


def test_tables_that_find_no_room_are_one_line(suite: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    """A table that the disk has no room for is named, and no part of it is left."""
    out = tmp_path / "results"
    with file_limit(50):
        said = fails("results", "collect", str(suite), "--out", str(out))
    assert said.startswith(f"{out / 'runs.csv'}: File too large. ") and not list(out.iterdir())


def test_the_repository_is_up_to_date() -> None:
    """Tables and figures of the README, of results/ and of docs/ are those that the CSVs give."""
    assert main(["results", "render", "--check", "--root", str(ROOT)]) == 0


# Collecting ------------------------------------------------------------------------------------------------------


def test_a_run_is_a_row(collected: Path) -> None:
    """A finished run is told with its figures, shares of time, revision and command; another with its status."""
    row, failed, waiting = read_table(collected / "runs.csv")
    told = {name: row[name] for name in ("status", "return_mean", "planning_macs", "revision", "precision", "compiled")}
    assert told == {
        **{"status": "finished", "return_mean": "10", "planning_macs": "25", "revision": "abc"},
        **{"precision": "float32", "compiled": "False"},
    }
    assert (row["share_plan"], row["share_update"], row["decisions_per_s"]) == ("0.25", "0.75", "250")
    assert row["command"] == "tdmpc train toy --seed 0 --run-dir runs/suites/made-up/toy/l2-0"
    assert (failed["status"], failed["return_mean"], waiting["status"]) == ("failed", "", "not finished")


def test_a_run_s_own_revision_comes_first(suite: Path) -> None:
    """What a run recorded of its program is not overruled by whoever collects."""
    path = next(suite.rglob(runs.CONFIG))
    path.write_text(json.dumps({**json.loads(path.read_text()), "revision": "its own"}))
    rows = collect(suite, revision="abc")["runs.csv"]
    assert sorted({row["revision"] for row in rows}) == ["abc", "its own"]


def test_a_run_that_was_finished_elsewhere_keeps_its_rows(suite: Path, collected: Path) -> None:
    """A suite may be made on several machines: what one of them finished stays, in the order of the suite."""
    (suite / "toy" / "l2-0").rename(suite / "toy" / "l2-2")
    curves = len(read_table(collected / "curves.csv"))
    for _ in range(2):  # a second time adds nothing
        assert main(["results", "collect", str(suite), "--out", str(collected), "--revision", "def"]) == 0
    told = [(row["seed"], row["status"], row["revision"]) for row in read_table(collected / "runs.csv")]
    assert told == [("0", "finished", "abc"), ("1", "failed", "def"), ("2", "finished", "def")]
    assert [row["seed"] for row in read_table(collected / "curves.csv")] == ["0"] * curves + ["2"] * curves


def test_curves_are_collected(collected: Path) -> None:
    """Every training episode of a finished run is there."""
    assert [row["return"] for row in read_table(collected / "curves.csv")] == ["1.00", "2.00", "3.00", "6.00"]


def test_an_event_is_a_row(collected: Path) -> None:
    """An event is told with its losses, its worst worsening, the widths, and the returns around it."""
    (row,) = read_table(collected / "events.csv")
    told = {name: row[name] for name in ("value_before", "value_after", "worsening", "worst", "macs_left", "widths")}
    assert told == {
        **{"value_before": "1", "value_after": "2", "worsening": "0.3", "worst": "plan", "macs_left": "0.25"},
        "widths": "policy.0 2, latent 3",
    }
    assert (row["return_before"], row["return_after"]) == ("1", "4.5")


def test_importance_is_told_by_ranks(collected: Path) -> None:
    """Each snapshot of an axis is compared with the one before and with the last, over the units that both have."""
    told = [
        [row[name] for name in ("axis", "units", "rank_previous", "rank_last")]
        for row in read_table(collected / "importance.csv")
    ]
    assert told == [["policy.0", "4", "-1", "1"], ["policy.0", "3", "1", "1"]]


def test_latency_goes_with_its_own_return(collected: Path) -> None:
    """A bundle has the return of its validation, the agent that of the longest; folders of the machine are not told."""
    told = [(row["backend"], row["bundle"], row["return_mean"]) for row in read_table(collected / "latency.csv")]
    assert told == [("onnxruntime", "bundle", "9"), ("torch", "", "8")]


def test_an_agent_that_was_not_validated_has_the_return_of_its_run(suite: Path, tmp_path: Path) -> None:
    """Without a validation a bundle has no return."""
    for path in (suite / "toy" / "l2-0").glob("validate*.json"):
        path.unlink()
    assert main(["results", "collect", str(suite), "--out", str(tmp_path / "out")]) == 0
    told = [row["return_mean"] for row in read_table(tmp_path / "out" / "latency.csv")]
    assert told == ["", "10"]


def test_the_episode_of_an_event_counts_for_neither_side() -> None:
    """Before an event are the episodes that ended by then, after it those that began later."""
    assert returns_around(150, EPISODES) == (1.0, 4.5)
    assert returns_around(50, EPISODES) == (None, pytest.approx(11 / 3))
    assert returns_around(400, EPISODES) == (pytest.approx(11 / 3), None)


def test_ranks_of_too_few_units_are_not_told() -> None:
    """Two units have no rank correlation, nor have units whose scores are all the same."""
    axis = {"units": [[0, 1, 2]], "scores": [[1.0, 2.0, 3.0]]}
    assert rank_correlation(axis, {"units": [[0, 1]], "scores": [[1.0, 2.0]]}) is None
    assert rank_correlation(axis, {"units": [[0, 1, 2]], "scores": [[1.0, 1.0, 1.0]]}) is None


def test_a_training_without_times_has_no_speed() -> None:
    """Where no time was logged, rate and shares are not known."""
    assert set(speed([{"updates": 1, "agent_steps": 1}]).values()) == {None}


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "learning_curve.csv"])
def test_a_missing_file_is_one_line(suite: Path, tmp_path: Path, fails: Callable[..., str], name: str) -> None:
    """A finished run that lacks a file is told in one line that names the file."""
    (suite / "toy" / "l2-0" / name).unlink()
    assert f"l2-0/{name} cannot be read" in fails("results", "collect", str(suite), "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name",
    [
        "summary.json",
        "config.json",
        "metrics.jsonl",
        "events.jsonl",
        "importance.jsonl",
        "latency.json",
        "validate.json",
    ],
)
@pytest.mark.parametrize("content", ['{"half": ', "{}\n"], ids=["broken", "of something else"])
def test_a_corrupt_file_is_one_line(
    suite: Path, tmp_path: Path, fails: Callable[..., str], name: str, content: str
) -> None:
    """A file that cannot be read, or holds something else, is told in one line that names it."""
    (suite / "toy" / "l2-0" / name).write_text(content + "\n")
    assert f"l2-0/{name}" in fails("results", "collect", str(suite), "--out", str(tmp_path / "out"))


def test_another_folder_is_no_suite(tmp_path: Path, fails: Callable[..., str]) -> None:
    """A folder that tdmpc suite did not make is refused."""
    assert "is no suite's folder" in fails("results", "collect", str(tmp_path))


# Estimating ------------------------------------------------------------------------------------------------------


def test_estimates_are_the_known_ones() -> None:
    """The mean of 1, 2, 3, 100 is 26.5 and their interquartile mean 2.5, each inside its interval."""
    values = (1.0, 2.0, 3.0, 100.0)
    for estimate, value in ((mean(values), 26.5), (interquartile_mean(values), 2.5)):
        assert estimate.value == value
        assert estimate.low is not None and estimate.high is not None
        assert 1.0 <= estimate.low <= value <= estimate.high <= 100.0


def test_one_seed_has_no_interval() -> None:
    """Of one value there is no interval; of equal ones it is that value."""
    assert (mean([3.0]).low, interquartile_mean([3.0]).high) == (None, None)
    assert (mean([3.0, 3.0]).low, mean([3.0, 3.0]).high) == (3.0, 3.0)


# Rendering -------------------------------------------------------------------------------------------------------


def page(checkout: Path, *blocks: str) -> Path:
    checkout.mkdir(parents=True, exist_ok=True)
    path = checkout / "README.md"
    path.write_text(
        "before\n" + "".join(f"<!-- results:{block} -->\nold\n<!-- /results -->\n" for block in blocks) + "after\n"
    )
    return path


def render(checkout: Path, *options: str) -> int:
    return main(["results", "render", "--root", str(checkout), *options])


def test_tables_are_filled_from_the_csvs(collected: Path) -> None:
    """Blocks show what was collected and what has no result; what is around them stays; a second call does nothing."""
    checkout = collected.parents[1]
    readme = page(
        checkout,
        *(
            f"{name} made-up"
            for name in (
                "returns",
                "learned",
                "commands",
                "pruning",
                "pruned",
                "speed",
                "steps",
                "movement",
                "deployment",
            )
        ),
    )
    assert render(checkout) == 0
    text = readme.read_text()
    assert text.startswith("before\n<!-- results:returns made-up -->\n\n| task |") and text.endswith("\nafter\n")
    assert text.count("| toy | l2 | 400 | 10 | 10 | 10 |  |") == 2
    assert "Seeds without a result: toy/l2 1 (failed); toy/l2 2 (not finished)." in text
    assert "| toy | l2 | 1 | 25 % | 50 % | 10 | 10 |  | 1.5 | 250 |" in text
    assert "| toy | l2 | 1 | 25 % | 10 |  | 1.5 |" in text
    assert "| toy | l2 | 1 | 0 | 0.3 | 3.5 |  |" in text
    assert "| toy | l2 | bundle | onnxruntime | fp32 | 1 | 1 | 2.0 | 3.0 | 9 | 1 of 1 |" in text
    assert "old" not in text
    assert render(checkout, "--check") == 0


def test_a_method_is_compared_with_dense_on_the_same_seeds(tmp_path: Path) -> None:
    """What is left of the return counts the seeds that both have, and the time is that of the least disturbed run."""
    readme = page(tmp_path, "pruning made-up")
    returned = {"dense": {0: 100.0, 1: 20.0}, "l2": {0: 90.0}, "random": {1: 10.0, 2: 1000.0}}
    sizes = dict.fromkeys(("planning_macs", "planning_macs_dense", "parameters", "parameters_dense"), 1)
    (tmp_path / "results" / "made-up").mkdir(parents=True)
    rows = [
        {"task": "toy", "method": method, "seed": seed, "status": "finished", "return_mean": value, **sizes}
        | {"wall_s": 60 * (seed + 1), "decisions_per_s_last": 1}
        for method, seeds in returned.items()
        for seed, value in seeds.items()
    ]
    write_table(tmp_path / "results" / "made-up" / "runs.csv", rows)
    assert render(tmp_path) == 0
    table = [line.split(" | ")[-3:-1] for line in readme.read_text().splitlines() if line.startswith("| toy")]
    assert table == [["100 %", "1"], ["90 %", "1"], ["50 %", "2"]]


def test_the_best_pruning_of_the_autoencoder_is_bold(tmp_path: Path) -> None:
    """PSNR is a mean over the seeds, with their deviation where there are several; models from scratch do not win."""
    readme = page(tmp_path, "autoencoder autoencoder.csv")
    found = {("dense", 0.0): (30.0,), ("scratch", 0.5): (29.0,), ("l2", 0.5): (20.0, 22.0), ("pq", 0.5): (20.5,)}
    rows = [
        {"method": method, "target": target, "seed": seed, "psnr": value}
        for (method, target), values in found.items()
        for seed, value in enumerate(values)
    ]
    (tmp_path / "results").mkdir()
    write_table(tmp_path / "results" / "autoencoder.csv", rows)
    assert render(tmp_path) == 0
    table = [line for line in readme.read_text().splitlines() if line.startswith("| ")]
    assert table[0] == "|  | 50 % fewer parameters |"
    assert table[-2:] == ["| l2 | **21.00 ± 1.41** |", "| pq | 20.50 |"]
    assert "| dense | 30.00 |" in table and "| evenly narrower, trained from scratch | 29.00 |" in table


def test_what_is_out_of_date_is_named(collected: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--check`` names pages and figures whose data, drawing or file changed, exits 1 and writes nothing."""
    checkout = collected.parents[1]
    readme = page(checkout, "returns made-up", "figure methods made-up")
    before = readme.read_text()
    assert render(checkout, "--check") == 1
    out = capsys.readouterr().out
    assert "README.md is not up to date" in out and "methods-made-up.png is not up to date" in out
    assert readme.read_text() == before and not (checkout / "docs").exists()
    assert render(checkout) == 0
    assert "](docs/figures/methods-made-up.png)" in readme.read_text()
    assert render(checkout, "--check") == 0
    figure = checkout / "docs" / "figures" / "methods-made-up.png"
    figure.write_bytes(figure.read_bytes() + b"x")
    assert render(checkout, "--check") == 1
    assert render(checkout) == 0
    table = collected / "runs.csv"
    table.write_text(table.read_text().replace("finished,10,", "finished,11,"))
    capsys.readouterr()
    assert render(checkout, "--check") == 1
    assert capsys.readouterr().out.count("not up to date") == 2


@pytest.mark.parametrize("kind", ["curves", "methods", "steps", "movement", "latency"])
def test_every_figure_is_drawn(collected: Path, kind: str) -> None:
    """Each kind of figure comes out of the tables of a suite, of all tasks or of some."""
    checkout = collected.parents[1]
    page(checkout, f"figure {kind} made-up", f"figure {kind} made-up toy", f"figure {kind} made-up other")
    assert render(checkout) == 0
    for name in (kind + "-made-up", kind + "-made-up-toy", kind + "-made-up-other"):
        assert (checkout / "docs" / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_without_results_pages_say_so(tmp_path: Path) -> None:
    """Where a table is not there, a block says that it was not run."""
    readme = page(tmp_path, "returns nothing", "figure latency nothing")
    (tmp_path / "results").mkdir()
    assert render(tmp_path) == 0
    assert readme.read_text().count("Not run yet: there is no `results/nothing/") == 2


def test_bench_is_shown_as_printed(
    tmp_path: Path, fails: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """What tdmpc bench --json printed is a table; something else is refused."""
    row = {
        **{"setting": "default", "precision": "float32", "compiled": False, "threads": 2, "plan_ms_p50": 20.04},
        **{
            "update_ms_p50": 23.0,
            "watched_update_ms_p50": 23.1,
            "event_ms_p50": 150.0,
            "decisions_per_s": 23.2,
            "load_before": 0.5,
            "load_after": 1.0,
        },
        **{"processor": "a processor", "torch": "2.0"},
    }
    readme = page(tmp_path, "bench bench/two.json")
    file = tmp_path / "results" / "bench" / "two.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps([row]))
    assert render(tmp_path) == 0
    assert (
        "| `default` | float32 | 2 | 20.0 | 23.0 | 23.1 | 150.0 | 23.2 | 0.5 to 1 | a processor | 2.0 |"
        in readme.read_text()
    )
    file.write_text("[{}]")
    capsys.readouterr()
    assert "two.json is not what tdmpc bench --json prints" in fails("results", "render", "--root", str(tmp_path))


def test_timings_are_shown_as_printed(
    tmp_path: Path, fails: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """What tdmpc latency --json printed is a table, medians as parts of the agent's; something else is refused."""
    agent = {
        **{"bundle": "runs/dense", "backend": "torch", "precision": "fp32", "macs": 12e9, "mode": "single"},
        **{"p50_ms": 240.0, "p99_ms": 250.0, "p999_ms": None, "max_ms": 260.0, "deadline_ms": None, "priority": None},
        **{"awake": False, "processor": "a processor", "cores": 2, "threads": 1, "load_before": 0.5, "load_after": 1.0},
        **{"stolen_ms": 20, "contended": False},
    }
    late = {
        "mode": "periodic",
        "misses": 3,
        "periods": 3000,
        "period_ms": 20,
        "deadline_ms": 5,
        "priority": 50,
        "awake": True,
    }
    small = {
        **agent,
        **late,
        "bundle": "small",
        "backend": "onnxruntime",
        "p50_ms": 12.0,
        "stolen_ms": None,
        "contended": True,
    }
    readme = page(tmp_path, "timings latency/two.json")
    file = tmp_path / "results" / "latency" / "two.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps([agent, small]))
    assert render(tmp_path) == 0
    shown = readme.read_text()
    assert "| dense | torch fp32 | 12 G | 240.0 | 250.0 | - | 260.0 | 1/1 |  |  |  |  | 0.5 | 20 |  |" in shown
    assert "| 12.0 | 250.0 | - | 260.0 | 1/20 | 3 of 3,000 at 20 ms | 5 | 50 | yes | 0.5 | - | yes |" in shown
    assert shown.count("a processor, 2 cores, threads: 1.") == 1
    for wrong in ("[]", "[{}]", "{"):
        file.write_text(wrong)
        capsys.readouterr()
        assert "is not what tdmpc latency --json prints" in fails("results", "render", "--root", str(tmp_path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<!-- results:returns a -->\n", "is not closed by <!-- /results -->"),
        ("<!-- results:returns a -->\n<!-- results:returns b -->\n<!-- /results -->\n", "is not closed by"),
        ("<!-- /results -->\n", "line 1: <!-- /results --> closes nothing"),
        ("<!-- results:retruns a -->\n<!-- /results -->\n", "no block 'results:retruns a'"),
        ("<!-- results:figure pie a -->\n<!-- /results -->\n", "no block 'results:figure pie a'"),
    ],
    ids=["open", "nested", "only closed", "unknown table", "unknown figure"],
)
def test_a_page_with_bad_markers_is_refused(tmp_path: Path, fails: Callable[..., str], text: str, says: str) -> None:
    """A block that is not closed, not opened or not known is one line, and the page stays as it is."""
    (tmp_path / "README.md").write_text(text)
    assert says in fails("results", "render", "--root", str(tmp_path))
    assert (tmp_path / "README.md").read_text() == text


@pytest.mark.parametrize(
    ("content", "says"),
    [("task,method\n", "has no column"), ("task,method,seed\na,b\n", "has no column"), ("\0", "")],
    ids=["other columns", "short", "binary"],
)
def test_a_bad_table_is_refused(tmp_path: Path, fails: Callable[..., str], content: str, says: str) -> None:
    """A CSV that lacks columns is one line that names it."""
    page(tmp_path, "returns bad")
    (tmp_path / "results" / "bad").mkdir(parents=True)
    (tmp_path / "results" / "bad" / "runs.csv").write_text(content)
    said = fails("results", "render", "--root", str(tmp_path))
    assert "bad/runs.csv" in said and says in said


def test_without_experiments_there_is_nothing_to_render(
    tmp_path: Path, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installed from a wheel, which has no experiments, the command says that it needs a checkout."""
    monkeypatch.setitem(sys.modules, "tdmpc.scripts.experiments.render", None)
    assert "works in a checkout of the project" in fails("results", "render", "--root", str(tmp_path))


def test_another_folder_is_no_checkout(tmp_path: Path, fails: Callable[..., str]) -> None:
    """Where there is no page, nothing is rendered."""
    assert "is no checkout" in fails("results", "render", "--root", str(tmp_path))
