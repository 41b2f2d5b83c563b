"""Laws of the search for a controller: what is chosen and played, kills, dead ends. Times and returns are made up."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tdmpc.config import PlannerConfig
from tdmpc.deploy import bundle
from tdmpc.deploy.backends import Runtime
from tdmpc.deploy.bundle import REFINE, START, BundleError
from tdmpc.deploy.original import ExportConfig
from tdmpc.deploy.timing import Timed, Times
from tdmpc.scripts import tune_latency, tune_search
from tdmpc.scripts.main import main
from tdmpc.scripts.report.frontier import frontier
from tdmpc.scripts.tune_candidates import Candidate, Subject, halves
from tests.deploy.conftest import MANIFEST

NAME = "onnxruntime float32"
PARTS: tune_latency.Costs = {NAME: {"policy": [0.1], START: [0.0, 0.1, 0.0], REFINE: [0.0, 0.0, 0.1]}}
"""Of the toy's planner, 16 samples x 2 iterations with a horizon of 3: 9.9 ms."""
ADDED: tune_latency.Costs = {NAME: {"delay 0": [0.0], "delay 2": [0.0]}}


@dataclass
class World:
    """What a made-up search meets: what episodes return, what bundles take; and what it has played."""

    played: list[tuple[Candidate, int]] = field(default_factory=list)
    bundle_ms: float = 1.0
    exported_ms: float = 0.0
    """What the last export should take."""
    stops_after: int = 10**9

    def play(self, subject: Subject, candidate: Candidate, *, seed: int) -> float:
        """More samples return more, a delay costs; an episode is easy or hard for all alike."""
        if len(self.played) == self.stops_after:
            self.stops_after = 10**9
            raise KeyboardInterrupt
        self.played.append((candidate, seed))
        return float(np.random.default_rng(seed).normal(100, 30)) + candidate.samples - 20 * candidate.delay


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A world in place of runtimes, simulator and export."""
    made = World()

    def export(run: Path, out: Path, config: Any) -> dict[str, Any]:
        out.mkdir(parents=True)
        budget = {name: getattr(config, name) for name in ("samples", "iterations", "horizon", "policy_trajectories")}
        planner = None if config.samples is None else PlannerConfig(**budget)
        made.exported_ms = tune_latency.predicted({**PARTS[NAME], **ADDED[NAME]}, planner, config.delay)
        return {"widths": {}}

    monkeypatch.setattr(tune_latency, "runtimes", lambda threads, priority: {NAME: Runtime(threads=threads)})
    monkeypatch.setattr(tune_latency, "costs", lambda *_: PARTS)
    monkeypatch.setattr(tune_latency, "overheads", lambda *_: ADDED)
    monkeypatch.setattr(tune_latency, "of_bundle", lambda *_, policy: made.bundle_ms)
    monkeypatch.setattr(Subject, "play", lambda subject, candidate, *, seed: made.play(subject, candidate, seed=seed))
    monkeypatch.setattr(tune_search, "export", export)
    return made


def tune(run: Path, out: Path, *options: str) -> int:
    return main(["tune", str(run), "--out", str(out), "--trials=16", "--period-ms=10", *options])


def chosen(out: Path) -> dict[str, Any]:
    return json.loads((out / bundle.MANIFEST).read_text())[tune_search.TUNING]


def test_the_best_that_fits_is_exported(trained: Path, tmp_path: Path, world: World, toy: None) -> None:
    """Of those that decide in time, the one that returns most becomes the bundle; its table, figure and search stay."""
    assert tune(trained, tmp_path / "best") == 0
    found = chosen(tmp_path / "best")
    table = pd.read_csv(tmp_path / "best.csv")
    fit = table[table["fits"] & ~table["stopped"]]
    assert found["samples"] == fit["samples"].max() and found["p99_ms"] == world.bundle_ms
    assert (
        tune_latency.predicted(
            {**PARTS[NAME], **ADDED[NAME]},
            PlannerConfig(
                **{name: found[name] for name in ("samples", "iterations", "horizon", "policy_trajectories")}
            ),
            found["delay"],
        )
        <= 5
    )
    assert (table["p99_ms"][~table["fits"] & ~table["chosen"]] > 5).all() and not table["fits"].all()
    assert all((tmp_path / f"best{ending}").stat().st_size for ending in (".png", ".sqlite3"))


def test_a_slower_board_gets_a_smaller_planner(trained: Path, tmp_path: Path, world: World, toy: None) -> None:
    """With --slowdown, all times are so many times longer, and the policy alone is what is left in the end."""
    world.bundle_ms = 0.01
    assert tune(trained, tmp_path / "slow", "--slowdown=45") == 0
    assert chosen(tmp_path / "slow")["policy"] == "prior" and chosen(tmp_path / "slow")["p99_ms"] == 0.45


def test_the_largest_planners_that_fit_are_tried_first(trained: Path, tmp_path: Path, world: World, toy: None) -> None:
    """On a slow board most proposals are too slow, so the search begins with the most that fits at each horizon."""
    world.bundle_ms = 0.1
    assert tune(trained, tmp_path / "slow", "--slowdown=7", "--trials=14", "--period-ms=30") == 0
    table = pd.read_csv(tmp_path / "slow.csv")
    fit = table[table["fits"] & (table["policy"] == "planner") & (table["delay"] == 0)]
    # 15 ms on the board: 7 times 0.1 ms for a step of the horizon, and as much for a sample in an iteration.
    most = (fit["samples"] * fit["iterations"]).groupby(fit["horizon"]).max()
    assert most.to_dict() == {1: 16, 2: 8, 3: 4}


def test_candidates_are_raced_on_the_same_episodes(trained: Path, tmp_path: Path, world: World, toy: None) -> None:
    """Every candidate meets the same seeds in the same order, hopeless ones fewer of them; none meets one twice."""
    assert tune(trained, tmp_path / "raced", "--episodes=8", "--fresh-episodes=5") == 0
    seeds = {candidate: [seed for other, seed in world.played if other == candidate] for candidate, _ in world.played}
    order = max((each for each in seeds.values()), key=len)
    race, fresh = order[:8], order[8:]
    assert len(fresh) == 5 and not set(race) & set(fresh)
    assert all(each[:8] == race[: len(each[:8])] and each[8:] in ([], fresh) for each in seeds.values())
    assert min(map(len, seeds.values())) < 8 and max(map(len, seeds.values())) == 13
    table = pd.read_csv(tmp_path / "raced.csv")
    episodes = dict(zip(table["candidate"], table["episodes"], strict=True))
    assert episodes == {str(candidate): len(each[:8]) for candidate, each in seeds.items()}


def test_only_what_a_quicker_one_beats_is_stopped(trained: Path, tmp_path: Path, world: World, toy: None) -> None:
    """A candidate that returns less than a slower one is played to the end: it may be what a slower board gets."""
    assert tune(trained, tmp_path / "raced", "--trials=40") == 0
    table = pd.read_csv(tmp_path / "raced.csv")
    worth = table["samples"] - 20 * table["delay"]
    beaten = [((table["p99_ms"] <= p99) & (worth > own)).any() for p99, own in zip(table["p99_ms"], worth, strict=True)]
    assert table["stopped"].any() and not (table["stopped"] & ~pd.Series(beaten)).any()


def test_a_candidate_is_told_once(
    trained: Path, tmp_path: Path, world: World, toy: None, caplog: pytest.LogCaptureFixture
) -> None:
    """The search may propose again what it knows; the user reads of each candidate once."""
    caplog.set_level("INFO")
    assert tune(trained, tmp_path / "told", "--trials=24") == 0
    told = [line.split(": ", 1)[1] for line in caplog.messages if " of 24: " in line]
    assert len(told) == len(set(told)) > 5


def test_an_interrupted_search_goes_on(trained: Path, tmp_path: Path, world: World, toy: None) -> None:
    """The same command plays nothing again that was played before Ctrl-C, and ends with a bundle."""
    world.stops_after = 25
    assert tune(trained, tmp_path / "on") == 130
    assert not (tmp_path / "on").exists() and (tmp_path / "on.sqlite3").exists()
    assert tune(trained, tmp_path / "on") == 0
    assert len(world.played) > 25 and len(set(world.played)) == len(world.played)
    assert chosen(tmp_path / "on")["samples"] > 0


def test_a_search_that_is_over_is_not_made_again(trained: Path, tmp_path: Path, world: World, toy: None) -> None:
    """Where only the bundle is missing, the same command plays nothing and chooses the same."""
    assert tune(trained, tmp_path / "again") == 0
    before, count = chosen(tmp_path / "again"), len(world.played)
    shutil.rmtree(tmp_path / "again")
    assert tune(trained, tmp_path / "again") == 0
    assert len(world.played) == count and chosen(tmp_path / "again")["candidate"] == before["candidate"]


def test_where_nothing_fits_the_nearest_is_told(
    trained: Path, tmp_path: Path, world: World, fails: Callable[..., str], toy: None
) -> None:
    """A dead end names the nearest candidate, its time, and what would have to change; there is no bundle."""
    said = fails("tune", str(trained), f"--out={tmp_path / 'none'}", "--period-ms=0.1", "--trials=20")
    assert "no candidate decides within 0.05 ms; the nearest is trained, policy alone" in said
    assert "with 0.1 ms" in said and "--period-ms 0.21" in said and not (tmp_path / "none").exists()


def test_a_bundle_that_is_too_slow_is_not_kept(
    trained: Path, tmp_path: Path, world: World, fails: Callable[..., str], toy: None
) -> None:
    """What is measured of the bundle itself decides, whatever its parts had promised."""
    world.bundle_ms = 6.0
    said = fails("tune", str(trained), f"--out={tmp_path / 'late'}", "--period-ms=10", "--trials=20")
    assert "no bundle of the best candidates decides within its time" in said and not (tmp_path / "late").exists()


def test_where_bundles_are_slower_than_predicted_a_smaller_one_is_found(
    trained: Path, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, toy: None
) -> None:
    """A bundle that takes four times its prediction costs no result: what would fit even so comes next."""
    measured: list[float] = []

    def slow(*_: Any, policy: bool) -> float:
        measured.append(4 * world.exported_ms)
        return measured[-1]

    monkeypatch.setattr(tune_latency, "of_bundle", slow)
    assert tune(trained, tmp_path / "small", "--trials=24") == 0
    assert chosen(tmp_path / "small")["p99_ms"] == measured[-1] <= 5 < measured[0] and len(measured) == 2


def test_what_cannot_be_asked_is_refused(
    trained: Path,
    tmp_path: Path,
    world: World,
    fails: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    toy: None,
) -> None:
    """No agent, a share of more than all, two slownesses, a folder that is there, another question: one line each."""
    out = tmp_path / "asked"
    common = (f"--out={out}", "--period-ms=10", "--trials=8")
    assert "which agents?" in fails("tune", *common)
    assert "--share must be at most 1" in fails("tune", str(trained), *common, "--share=2")
    assert "--latency-at and --slowdown" in fails("tune", str(trained), *common, "--latency-at=x", "--slowdown=2")
    assert tune(trained, out, "--trials=8") == 0
    capsys.readouterr()
    assert "never overwritten" in fails("tune", str(trained), *common)
    shutil.rmtree(out)
    assert "is a search with other slowdown" in fails("tune", str(trained), *common, "--slowdown=2")


def test_costs_of_calls_steps_and_trajectories_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a graph's time is one for the call, one for each step and one for each trajectory's step, planners of every
    size are predicted as they are.
    """

    def times(_: Path, size: ExportConfig, known: Any) -> dict[str, dict[str, float]]:
        assert size.horizon and size.samples and size.policy_trajectories
        start = 0.3 + size.horizon * (0.1 + 0.01 * size.policy_trajectories)
        return {NAME: {bundle.POLICY: 0.1, START: start, REFINE: 0.2 + size.horizon * (0.05 + 0.02 * size.samples)}}

    monkeypatch.setattr(tune_latency, "_times", times)
    planner = PlannerConfig(horizon=4, samples=64, policy_trajectories=16, iterations=3)
    parts = {**tune_latency.costs(Path(), planner, {NAME: Runtime()})[NAME], **ADDED[NAME]}
    for horizon, samples, trajectories, iterations in ((4, 64, 16, 3), (1, 8, 2, 1), (1, 64, 2, 2), (3, 20, 9, 1)):
        size = PlannerConfig(horizon=horizon, samples=samples, policy_trajectories=trajectories, iterations=iterations)
        start, refine = 0.3 + horizon * (0.1 + 0.01 * trajectories), 0.2 + horizon * (0.05 + 0.02 * samples)
        assert tune_latency.predicted(parts, size, 0) == pytest.approx(start + iterations * refine)
    assert tune_latency.predicted(parts, None, 0) == pytest.approx(0.1)


def test_what_a_controller_adds_to_its_graphs_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small bundle takes longer than its graphs, and every planner is predicted to take as much more; for each delay
    its own, and never less than nothing.
    """
    planner = PlannerConfig(horizon=3, samples=64, policy_trajectories=16, iterations=3)
    whole, exported = iter([3.5, 0.5]), []
    monkeypatch.setattr(
        tune_latency, "export", lambda run, out, config: exported.append((config.horizon, config.samples, config.delay))
    )
    monkeypatch.setattr(tune_latency, "of_bundle", lambda *_, policy: next(whole))
    added = tune_latency.overheads(Path(), planner, {NAME: Runtime()}, PARTS, (0, 2))
    assert exported == [(1, 8, 0), (1, 8, 2)]
    assert added == {NAME: {"delay 0": [pytest.approx(3.5 - 0.1 - 0.8)], "delay 2": [0.0]}}
    parts, small = {**PARTS[NAME], **added[NAME]}, PlannerConfig(horizon=1, samples=8, iterations=1)
    assert tune_latency.predicted(parts, small, 0) == pytest.approx(3.5)


def test_a_disturbed_time_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another program took the core away, a time is taken again; where that does not end, the last one counts."""
    for shares, expected in (((0.5, 1.0, 1.0), 2.0), ((0.5, 0.6, 0.7), 3.0)):
        rounds = iter(enumerate(shares, start=1))

        def timed(subjects: Sequence[Timed], rounds: Any = rounds, **_: Any) -> None:
            number, share = next(rounds)
            for subject in subjects:
                subject.times = Times(wall_s=[[number / 1000] * 1000], cpu_s=share, busy_s=1.0)

        monkeypatch.setattr(tune_latency, "single_stream", timed)
        monkeypatch.setattr(tune_latency, "timed_controller", lambda *_: Timed({}, lambda _: None))
        assert tune_latency.of_bundle(Path(), Runtime(), policy=False) == expected


def test_a_board_is_compared_by_its_own_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--latency-at: the slowness of a board is its time of a bundle, through that of the same bundle here."""
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / bundle.MANIFEST).write_text(json.dumps(MANIFEST))
    row = {"bundle": "/robot/small", "model": bundle.read(tmp_path / "small").model_id, "backend": "onnxruntime"}
    row |= {"precision": "float32", "threads": 1, "mode": "single", "p99_ms": 12.0}
    (tmp_path / "board.json").write_text(json.dumps([row, {**row, "threads": 4, "p99_ms": 1.0}]))
    monkeypatch.setattr(tune_latency, "of_bundle", lambda *_, policy: 3.0)
    known = {NAME: Runtime(), "openvino float32": Runtime("openvino")}
    assert tune_latency.slowdowns(tmp_path / "board.json", known) == {NAME: 4.0}
    with pytest.raises(BundleError, match="holds no times of openvino float32 with 1 threads"):
        tune_latency.slowdowns(tmp_path / "board.json", {"openvino float32": Runtime("openvino")})
    shutil.rmtree(tmp_path / "small")
    with pytest.raises(BundleError, match="which is not here: put a copy of it beside the file"):
        tune_latency.slowdowns(tmp_path / "board.json", known)
    (tmp_path / "board.json").write_text('[{"mode": "single"}]')
    with pytest.raises(BundleError, match="is not what tdmpc latency --json writes"):
        tune_latency.slowdowns(tmp_path / "board.json", known)


def test_a_frontier_has_no_slower_and_worse(tmp_path: Path) -> None:
    """Of 1 ms 5, 2 ms 4, 3 ms 6 and 3 ms 5, the frontier is the first and the third."""
    rows = [{"p99_ms": p99, "return_mean": worth} for p99, worth in ((3, 5), (2, 4), (3, 6), (1, 5))]
    assert frontier(rows) == [rows[3], rows[2]] and frontier([]) == []


def test_halves_are_whole_numbers_above_zero() -> None:
    """16 and 6 have the halves 8, 4, 2, 1 and 3, 1; where nothing is above zero, zero is left."""
    assert halves([16, 6]) == [16, 8, 6, 4, 3, 2, 1] and halves([0]) == [0]
