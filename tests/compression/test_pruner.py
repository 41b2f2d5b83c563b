"""Laws of the online pruner on any subject: when it acts, what its guard undoes, what it records."""

import dataclasses
import json
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from torch import Tensor, nn

from tdmpc.compression.config import PruneConfig
from tdmpc.compression.groups import Axis, Groups, Keep, Slice
from tdmpc.compression.observer import WATCHED
from tdmpc.compression.prunable import Judgement
from tdmpc.compression.pruner import OnlinePruner
from tdmpc.compression.records import EVENTS, IMPORTANCE, read
from tdmpc.compression.shrink import shrink


class Toy:
    """Two components of one layer each. A cut of component ``bad`` is judged as harmful as it is said to be."""

    def __init__(self, tensors: dict[str, Tensor] | None = None, groups: Groups | None = None, harm: float = 0.0):
        self.harm, self.restarts, self.absorptions = harm, 0, 0
        axes = tuple(Axis(name, 0, 20, (Slice(f"{name}.in", 0), Slice(f"{name}.out", 1))) for name in ("good", "bad"))
        shapes = {
            f"{name}.{side}": (20, 3) if side == "in" else (2, 20) for name in ("good", "bad") for side in ("in", "out")
        }
        self.groups = groups or Groups(axes, shapes, dict.fromkeys(shapes, 4))
        self.tensors = tensors or {name: nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}

    def parameters(self) -> dict[str, Tensor]:
        return self.tensors

    def shrunk(self, keep: Keep) -> Self:
        tensors = {name: nn.Parameter(t) for name, t in shrink(self.tensors, self.groups, keep).items()}
        smaller = type(self)(tensors, self.groups.kept(keep), self.harm)
        smaller.restarts, smaller.absorptions = self.restarts, self.absorptions
        return smaller

    def absorbed(self, keep: Keep) -> Self:
        absorbing = type(self)(self.tensors, self.groups, self.harm)
        absorbing.restarts, absorbing.absorptions = self.restarts, self.absorptions + 1
        return absorbing

    def with_fresh_optimizer(self) -> Self:
        fresh = type(self)(self.tensors, self.groups, self.harm)
        fresh.restarts, fresh.absorptions = self.restarts + 1, self.absorptions
        return fresh

    def judge(self, before: Self, draw: int) -> Judgement:
        harmed = self.groups["bad.0"].size < before.groups["bad.0"].size
        return Judgement({"loss": 1.0}, {"loss": 2.0}, {"loss": self.harm * harmed, "plan": 0.0})


def settings(**changes: Any) -> PruneConfig:
    defaults = {"target": 0.75, "start": 0, "end": 100, "events": 5, "min_width": 2, "snapshot_every": 1000}
    return PruneConfig(**{**defaults, **changes})


def learn(pruner: OnlinePruner, toy: Toy, updates: int = 1) -> None:
    """Gradients that come in two parts, as those of two losses do."""
    for _ in range(updates):
        for component in ("good", "bad"):
            part = {name: p for name, p in toy.parameters().items() if name.startswith(component)}
            for p in part.values():
                p.grad = torch.randn_like(p)
            pruner.observe(part)


def train(folder: Path, config: PruneConfig, *, until: int = 200, harm: float = 0.0) -> tuple[OnlinePruner, Toy]:
    folder.mkdir(exist_ok=True)
    toy = Toy(harm=harm)
    pruner = OnlinePruner(config, toy.groups, folder)
    for step in range(until + 1):
        learn(pruner, toy)
        toy = pruner.advance(toy, step=step)
    return pruner, toy


@pytest.mark.parametrize("budget", ["macs", "parameters"])
@pytest.mark.parametrize("criterion", ["bayesian", "average", "l2", "random"])
def test_a_run_ends_at_its_target(tmp_path: Path, budget: str, criterion: str) -> None:
    """After the last event the target share is gone, and not a step more; widths, statistics and gradients agree."""
    pruner, toy = train(tmp_path, settings(budget=budget, criterion=criterion))
    left = toy.groups.cost(budget) / pruner.dense.cost(budget)
    assert 0.25 - 1 / 40 <= left <= 0.25
    assert toy.groups == pruner.groups
    assert len(pruner.decider.statistics.rate) == toy.groups.total < pruner.dense.total
    assert [event["decision"] for event in read(tmp_path / EVENTS)] == ["kept"] * 5


def test_events_come_when_they_are_due(tmp_path: Path) -> None:
    """Events come at equal distances up to the end, their goals are the schedule's, and none comes after the target."""
    pruner, _ = train(tmp_path, settings())
    events = read(tmp_path / EVENTS)
    assert [event["env_steps"] for event in events] == [20, 40, 60, 80, 100]
    assert [event["goal"] for event in events] == pytest.approx([pruner.schedule.removed(n) for n in range(1, 6)])


def test_nothing_is_cut_before_anything_is_known(tmp_path: Path) -> None:
    """Without a single observed gradient, a gradient criterion cuts nothing, and one by weights does."""
    for criterion, is_cut in {"fisher": False, "l1": True}.items():
        toy = Toy()
        pruner = OnlinePruner(settings(criterion=criterion), toy.groups, tmp_path)
        assert (pruner.advance(toy, step=100).groups.total < 40) == is_cut


def test_an_update_may_come_in_parts(tmp_path: Path) -> None:
    """An update is counted, and its gradients taken in, once all its parts have come; every n-th is looked at."""
    toy = Toy()
    pruner = OnlinePruner(settings(observe_every=3, smoothing=0.5), toy.groups, tmp_path)
    weights = []
    for _ in range(4):
        learn(pruner, toy)
        weights.append(pruner.decider.statistics.weight)
    assert pruner.updates == 4 and weights == [0.5, 0.5, 0.5, 0.75]


def test_statistics_follow_the_units_that_stay(tmp_path: Path) -> None:
    """After each event, what is known of a unit is what was known of it before; that of the others is gone."""
    toy = Toy()
    pruner = OnlinePruner(settings(criterion="average"), toy.groups, tmp_path)
    for step in (20, 40):
        learn(pruner, toy, updates=3)
        before, numbered = known(pruner), {name: units[0].tolist() for name, units in pruner.units.items()}
        toy = pruner.advance(toy, step=step)
        for name, stay in pruner.units.items():
            places = [numbered[name].index(unit) for unit in stay[0].tolist()]
            assert places != list(range(len(places)))
            for kind, values in known(pruner).items():
                assert torch.equal(values[name][0], before[kind][name][0, places])


def known(pruner: OnlinePruner) -> dict[str, dict[str, Tensor]]:
    """All statistics, axis by axis."""
    kinds = {"rate": pruner.decider.statistics.rate, **pruner.decider.statistics.moments}
    return {kind: pruner.groups.split(values) for kind, values in kinds.items()}


def test_the_guard_undoes_what_harms_and_rests_who_is_to_blame(tmp_path: Path) -> None:
    """A harmful event changes nothing, its component rests in the next, and the others go on towards the target."""
    _, toy = train(tmp_path, settings(), until=60, harm=0.9)
    events = read(tmp_path / EVENTS)
    assert [event["decision"] for event in events] == ["undone", "kept", "undone"]
    assert [event["blamed"] for event in events] == ["bad", "", "bad"]
    assert [event["rested"] for event in events] == [[], ["bad"], []]
    assert events[0]["reason"] == "loss worse by 0.90, more than 0.5"
    assert events[0]["cost"]["macs"]["after"] == events[0]["cost"]["macs"]["before"]
    assert events[0]["widths"] == {"good.0": 20, "bad.0": 20}
    assert toy.groups.widths["bad.0"] == 20 and toy.groups.widths["good.0"] < 20


def test_an_undone_event_makes_the_next_smaller(tmp_path: Path) -> None:
    """After an undone event the next may take half as large a part of what it finds; kept ones lift that again."""
    toy = Toy(harm=0.9)
    pruner = OnlinePruner(settings(rest=0), toy.groups, tmp_path)
    boldness = []
    for step in range(1, 101):
        toy.harm = 0.9 if step <= 60 else 0.0
        learn(pruner, toy)
        toy = pruner.advance(toy, step=step)
        boldness.append(pruner.boldness)
    assert boldness[19::20] == [0.5, 0.25, 0.125, 0.25, 0.5]
    goals = [event["goal"] for event in read(tmp_path / EVENTS)]
    assert goals[3] < goals[2] < goals[1]


def test_undone_events_are_made_up_for(tmp_path: Path) -> None:
    """What an undone event left is removed later, also behind the last scheduled event, in no larger parts."""
    pruner, toy = train(tmp_path, settings(), until=100, harm=0.9)
    assert toy.groups.cost("macs") > 0.25 * pruner.dense.cost("macs")
    toy.harm = 0.0
    for step in range(101, 300):
        learn(pruner, toy)
        toy = pruner.advance(toy, step=step)
    assert toy.groups.cost("macs") <= 0.25 * pruner.dense.cost("macs")
    costs = [event["cost"]["macs"] for event in read(tmp_path / EVENTS)]
    scheduled = [1 - pruner.schedule.removed(number) for number in range(6)]
    largest = min(after / before for before, after in pairwise(scheduled))
    assert min(cost["after"] / cost["before"] for cost in costs) > largest - 0.1


def test_what_is_missing_from_the_target_is_told(tmp_path: Path) -> None:
    """A run whose cuts were undone says how much is left and how much was asked for; one at its target says nothing."""
    stuck, _ = train(tmp_path / "stuck", settings(), until=20, harm=0.9)
    assert "100.0% of the macs are left where 25.0% were asked for" in stuck.shortfall()
    done, _ = train(tmp_path / "done", settings())
    assert done.shortfall() == ""


@pytest.mark.parametrize(("moments", "restarts"), [("carry", 0), ("reset", 5)])
def test_the_optimiser_goes_on_or_begins_afresh(tmp_path: Path, moments: str, restarts: int) -> None:
    """Moments follow the units through every event, or the optimiser begins afresh at each."""
    assert train(tmp_path, settings(moments=moments))[1].restarts == restarts


@pytest.mark.parametrize(("absorb", "absorptions"), [(True, 5), (False, 0)])
def test_what_goes_is_absorbed_before_it_goes(tmp_path: Path, absorb: bool, absorptions: int) -> None:
    """At every event the units that stay take over first, or the others are cut off as they are."""
    assert train(tmp_path, settings(absorb=absorb))[1].absorptions == absorptions


def test_the_guard_can_be_switched_off(tmp_path: Path) -> None:
    """Without the guard no event is undone, and what it would have seen is recorded all the same."""
    train(tmp_path, settings(guard=False), harm=0.9)
    events = read(tmp_path / EVENTS)
    assert {event["decision"] for event in events} == {"kept"}
    assert max(event["worsening"]["loss"] for event in events) == 0.9


def test_a_loss_that_is_no_number_is_undone(tmp_path: Path) -> None:
    """A cut after which a loss is not a number does not stand."""
    train(tmp_path, settings(), until=20, harm=float("nan"))
    assert read(tmp_path / EVENTS)[0]["decision"] == "undone"


def test_an_event_is_recorded_whole(tmp_path: Path) -> None:
    """Each record has the units that stay and go by their first numbers, the scores, losses, widths and costs."""
    pruner, toy = train(tmp_path, settings())
    events = read(tmp_path / EVENTS)
    alive = {name: set(range(20)) for name in ("good.0", "bad.0")}
    for event in events:
        for name, axis in event["axes"].items():
            (stay,), (gone,) = axis["kept"], axis["removed"]
            assert set(stay) | set(gone) == alive[name] and not set(stay) & set(gone)
            assert (len(alive[name]), len(stay)) == (axis["before"], axis["after"])
            assert axis["scores"]["min"] <= axis["scores"]["largest_removed"] <= axis["scores"]["least_kept"]
            assert (axis["component"], axis["layer"]) == (name[:-2], 0)
            alive[name] = set(stay)
        assert event["widths"] == {name: len(units) for name, units in alive.items()}
        assert event["losses"] == {"before": {"loss": 1.0}, "after": {"loss": 2.0}}
        assert event["cost"]["macs"]["dense"] == pruner.dense.cost("macs")
    assert events[-1]["cost"]["parameters"]["after"] == toy.groups.cost("parameters")
    assert {name: set(units[0].tolist()) for name, units in pruner.units.items()} == alive


def test_importance_is_recorded_over_the_run(tmp_path: Path) -> None:
    """Snapshots come at their distance and before each event, with a score for every unit that is there."""
    train(tmp_path, settings(snapshot_every=30), until=100)
    snapshots = read(tmp_path / IMPORTANCE)
    assert [shot["env_steps"] for shot in snapshots] == [20, 30, 40, 60, 80, 90, 100]
    widths = {"good.0": 20, "bad.0": 20}
    after = {event["env_steps"]: event["widths"] for event in read(tmp_path / EVENTS)}
    for shot in snapshots:
        for name, axis in shot["axes"].items():
            assert len(axis["units"][0]) == len(axis["scores"][0]) == widths[name]
        widths = after.get(shot["env_steps"], widths)


WATCHING = {"observe": True, "history": "cosine", "bound": "lower", "allocation": "importance"}


@pytest.mark.parametrize(
    ("harm", "changes"), [(0.0, {}), (0.9, {}), (0.0, WATCHING)], ids=["kept", "undone", "watching"]
)
def test_a_pruner_goes_on_from_its_state(tmp_path: Path, harm: float, changes: dict[str, Any]) -> None:
    """Restored between two events, with records beyond it on the disk, a run ends with the same records and units."""
    config = settings(snapshot_every=7, **changes)
    _, expected = train(tmp_path / "whole", config, harm=harm)
    torch.manual_seed(0)
    toy = Toy(harm=harm)
    folder = tmp_path / "parts"
    folder.mkdir()
    pruner = OnlinePruner(config, toy.groups, folder)
    torch.manual_seed(0)
    toy = Toy(harm=harm)
    for step in range(201):
        learn(pruner, toy)
        toy = pruner.advance(toy, step=step)
        if step in (33, 60, 61):
            tensors, meta = pruner.state()
            meta = json.loads(json.dumps(meta))
            with (folder / EVENTS).open("a") as file:
                file.write('{"event": 99}\n{"half a li')
            pruner = OnlinePruner(config, toy.groups, folder, dense=pruner.dense)
            pruner.load_state(tensors, meta, toy.groups)
    assert toy.groups == expected.groups
    for name in (EVENTS, IMPORTANCE):
        whole, parts = ([without_clock(line) for line in read(tmp_path / run / name)] for run in ("whole", "parts"))
        assert whole == parts


def test_a_state_from_before_there_were_bounds_is_read(tmp_path: Path) -> None:
    """Without the spread of energies, which older checkpoints lack, a pruner scores as it did."""
    toy = Toy()
    pruner = OnlinePruner(settings(), toy.groups, tmp_path)
    learn(pruner, toy, updates=3)
    tensors, meta = pruner.state()
    older = {name: tensor for name, tensor in tensors.items() if name not in ("spread", "steps", "latest")}
    restored = OnlinePruner(settings(), toy.groups, tmp_path)
    restored.load_state(older, meta, toy.groups)
    for name, scores in pruner.scores(toy, draw=1, step=50).items():
        assert torch.equal(scores, restored.scores(toy, draw=1, step=50)[name])


def test_watching_cuts_nothing(tmp_path: Path) -> None:
    """With target 0, every group has a score by every criterion in each snapshot, and no event comes."""
    _, toy = train(tmp_path, settings(target=0.0, observe=True, snapshot_every=40), until=100)
    assert toy.groups.total == 40 and read(tmp_path / EVENTS) == []
    snapshots = read(tmp_path / IMPORTANCE)
    assert [shot["env_steps"] for shot in snapshots] == [40, 80]
    for shot in snapshots:
        assert list(shot["criteria"]) == list(WATCHED)
        for axes in shot["criteria"].values():
            assert {name: len(heads[0]) for name, heads in axes.items()} == {"good.0": 20, "bad.0": 20}
        assert shot["criteria"]["bayesian"]["good.0"] == shot["axes"]["good.0"]["scores"]
        assert list(shot["levels"]) == list(WATCHED)
        assert all(values.keys() == {"good.0", "bad.0", "good", "bad"} for values in shot["levels"].values())


def test_watching_changes_no_cut(tmp_path: Path) -> None:
    """A run that is watched while it is pruned ends as the one that is not, with the same records otherwise."""
    runs = []
    for name, observe in {"plain": False, "watched": True}.items():
        torch.manual_seed(0)
        train(tmp_path / name, settings(observe=observe, criterion="fisher"))
        runs.append([without_clock(line) for file in (EVENTS, IMPORTANCE) for line in read(tmp_path / name / file)])
    extra = {"criteria", "levels"}
    assert any(extra <= line.keys() for line in runs[1])
    assert runs[0] == [{name: value for name, value in line.items() if name not in extra} for line in runs[1]]


def test_history_gains_weight_while_units_go(tmp_path: Path) -> None:
    """With a cosine, the score is the square of the present energy at the start, and that of the past at the end."""
    toy = Toy()
    pruner = OnlinePruner(settings(history="cosine"), toy.groups, tmp_path)
    learn(pruner, toy, updates=3)
    statistics, split = pruner.decider.statistics, pruner.groups.split
    present = split((statistics.moments["absolute"] / statistics.weight).square())
    past = split((statistics.rate / (statistics.shape - 1)).square())
    for step, expected in {0: present, 100: past}.items():
        for name, scores in pruner.scores(toy, draw=1, step=step).items():
            torch.testing.assert_close(scores, expected[name])


def without_clock(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "seconds"}


def test_a_random_pruner_repeats_itself(tmp_path: Path) -> None:
    """The random criterion depends on the seed and the event alone."""
    config = settings(criterion="random")
    toy = Toy()
    same = [OnlinePruner(config, toy.groups, tmp_path, seed=seed).scores(toy, draw=3, step=0) for seed in (1, 1, 2)]
    assert torch.equal(same[0]["good.0"], same[1]["good.0"]) and not torch.equal(same[0]["good.0"], same[2]["good.0"])
    other = dataclasses.replace(config, target=0.5)
    assert torch.equal(
        OnlinePruner(other, toy.groups, tmp_path, seed=1).scores(toy, draw=3, step=0)["good.0"], same[0]["good.0"]
    )
