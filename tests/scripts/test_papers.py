"""Laws of the tables of docs/papers.md: what watched trainings and pruned weights say."""

import json
from pathlib import Path
from typing import Any

import pytest

from tdmpc.compression.observer import WATCHED
from tdmpc.compression.records import IMPORTANCE
from tdmpc.scripts.csv_tables import read_table, write_table
from tdmpc.scripts.experiments import observed, papers
from tdmpc.scripts.experiments.figures import write

UNITS = [[0, 1, 2, 3]]
RISING, SWAPPED, FALLING = [[1.0, 2.0, 3.0, 4.0]], [[2.0, 1.0, 3.0, 4.0]], [[4.0, 3.0, 2.0, 1.0]]


def snapshot(step: int, scores: list[list[float]]) -> dict[str, Any]:
    """All criteria but l1 score alike; l1 never moves."""
    criteria = {name: {"a": RISING if name == "l1" else scores} for name in WATCHED}
    levels = {name: {"a": 1.5, "b": 0.5} for name in WATCHED}
    return {
        "env_steps": step,
        "axes": {"a": {"units": UNITS, "scores": scores}},
        "criteria": criteria,
        "levels": levels,
    }


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Of two runs, whose gradient criteria turn round on the way."""
    folders = []
    for seed in (0, 1):
        folder = tmp_path / f"run-{seed}"
        folder.mkdir()
        folders.append(str(folder))
        snapshots = [snapshot(step, scores) for step, scores in enumerate((RISING, SWAPPED, FALLING), start=1)]
        (folder / IMPORTANCE).write_text("".join(json.dumps(each) + "\n" for each in snapshots))
    assert observed.main(["toy", *folders, "--out", str(tmp_path / "out")]) == 0
    return tmp_path / "out"


def test_agreement_is_that_at_the_end(tables: Path) -> None:
    """Criteria that score alike agree by 1, and one that never turned round disagrees by -1 at the end."""
    rows = read_table(tables / "agreement.csv", "method", "other", numbers=("rank",))
    assert len(rows) == 2 * 21
    with_l1 = (rows["method"] == "l1") | (rows["other"] == "l1")
    assert set(rows.loc[with_l1, "rank"]) == {-1} and set(rows.loc[~with_l1, "rank"]) == {1}
    assert "| gradient, fisher | 1.00 [1.00, 1.00] |" in papers.agreement(tables / "agreement.csv")


def test_movement_is_from_snapshot_to_snapshot(tables: Path) -> None:
    """What swaps two of four and then turns round has 0.8 and -0.8, and -1 from beginning to end; l1 has 1."""
    rows = read_table(tables / "moving.csv", "method", numbers=("neighbours", "least", "early_late"))
    moved = rows.set_index("method").loc["gradient"].iloc[0]
    assert (moved["neighbours"], moved["least"], moved["early_late"]) == pytest.approx((0, -0.8, -1), abs=1e-9)
    assert "| toy | l1 | 2 | 1.00 [1.00, 1.00] | 1.00 [1.00, 1.00] |" in papers.moving(tables / "moving.csv")


def test_levels_are_those_of_the_last_snapshot(tables: Path, tmp_path: Path) -> None:
    """Each level has a line with every criterion; the heat map is drawn of all of them."""
    assert "| toy | a | 1.50 |" in papers.shares(tables / "levels.csv")
    write(papers.KINDS["heat"], tables / "levels.csv", [], tmp_path / "heat.png")
    assert (tmp_path / "heat.png").stat().st_size > 0


def test_weights_have_a_column_for_each_sparsity(tmp_path: Path) -> None:
    """Scores stand under the share that was asked for, the dense one under each; SAP has a table of its own."""
    path = tmp_path / "weights.csv"
    shared = {"task": "toy", "seed": 0, "pq_index": 0.2}
    rows = [
        {"method": "dense", "sparsity": 0, "score": 0.9, "asked": ""},
        {"method": "layer", "sparsity": 0.501, "score": 0.7, "asked": 0.5},
        {"method": "layer", "sparsity": 0.8, "score": 0.4, "asked": 0.8},
        {"method": "sap", "sparsity": 0.3, "score": 0.85, "asked": ""},
        {"method": "sap", "sparsity": 0.6, "score": 0.8, "asked": ""},
    ]
    write_table(path, [{**shared, **row} for row in rows])
    table = papers.weights(path).splitlines()
    assert table[0].endswith("| 50% dropped | 80% dropped |")
    assert table[2:] == ["| toy | dense | 1 | 0.90 | 0.90 |", "| toy | layer | 1 | 0.70 | 0.40 |"]
    assert [line.split(" | ")[1:4] for line in papers.sap(path).splitlines()[2:]] == [
        ["1", "1", "30.0%"],
        ["2", "1", "60.0%"],
    ]
    write(papers.KINDS["sparsities"], path, [], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_bounds_are_told_in_times_of_what_is_measured(tmp_path: Path) -> None:
    """A worst case of 4 where 2 is measured is 2 times it, and a mean square of 3 is 1.5 times."""
    figures = {"worst_case": 4, "largest": 2, "mean_square": 3, "rms": 2, "of_output": 0.1}
    row = {"task": "toy", "method": "dropped", "seed": 0, "sparsity": 0.5, "component": "net", "layer": "all"}
    write_table(tmp_path / "bounds.csv", [{**row, **figures}])
    assert papers.bounds(tmp_path / "bounds.csv").splitlines()[2] == "| toy | 50% dropped | all | 2 | 1.5 | 0.1 |"


def test_what_can_be_dropped_is_ranked_with_the_indices(tmp_path: Path) -> None:
    """Networks that can lose more the softer they are correlate at 1, and where all lose the same there is nothing."""
    rows = [
        {**{"task": "toy", "method": "net", "seed": 0, "moment": moment}, "soft_sparsity": soft, "pq_index": -soft}
        | {"cut": cut, "cut_refitted": 0.5}
        for moment, soft, cut in (("0", 0.1, 0.2), ("1", 0.2, 0.4), ("2", 0.3, 0.6))
    ]
    path = tmp_path / "compressibility.csv"
    write_table(path, rows)
    line = papers.compressible(path).splitlines()[2]
    assert line.startswith("| toy net | 3 | 1.00 (p 0) | -1.00 (p 0) |  |  |")
    write(papers.KINDS["scatter"], path, [], tmp_path / "scatter.png")
    assert (tmp_path / "scatter.png").stat().st_size > 0


def test_methods_are_compared_on_the_same_seeds(tmp_path: Path) -> None:
    """A method that has seed 1 alone is compared with the first one's seed 1, however good its seed 0 was."""
    runs = [("default", 0, 900), ("default", 1, 500), ("late", 1, 550)]
    rows = [
        {"task": "toy", "method": method, "seed": seed, "status": "finished", "return_mean": value}
        for method, seed, value in runs
    ]
    write_table(tmp_path / "runs.csv", rows)
    assert papers.paired(tmp_path / "runs.csv").splitlines()[3] == "| toy | late | 1 | 550 | 50.0 |"
