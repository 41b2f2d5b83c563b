"""Laws of pruning an agent while it trains: exact continuation, what the guard leaves, what a run records."""

import dataclasses
import itertools
import multiprocessing
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tdmpc import checkpoint, compiling, runs
from tdmpc.agent import Agent
from tdmpc.compression.config import PruneConfig
from tdmpc.compression.records import EVENTS, IMPORTANCE, Journal, read
from tdmpc.compression.tdmpc_agent.agent import PrunableAgent
from tdmpc.compression.tdmpc_agent.groups import agent_groups
from tdmpc.compression.tdmpc_agent.hook import AgentPruner
from tdmpc.config import Linear, TrainConfig, from_json, to_json
from tdmpc.evaluation import evaluate
from tdmpc.metrics import Sink, read_rows
from tdmpc.replay import Replay
from tdmpc.runs import load_agent
from tdmpc.spec import EnvSpec
from tdmpc.trainer import Interrupted, Trainer
from tests.compression.conftest import MakeAgent, groups_of, random_keep
from tests.tdmpc.conftest import SMALL, open_run, tiny
from tests.tdmpc.outcomes import Outcome, differing, outcome
from tests.tdmpc.test_trainer_resume import Impatient, deadly

PRUNE = PruneConfig(target=0.7, start=24, end=48, events=4, min_width=2, snapshot_every=7, tolerance=0.4)
RUNS = {
    "one lane": tiny("Pendulum-v1"),
    "two lanes": tiny("Pendulum-v1", num_envs=2),
    "terminations": tiny("InvertedPendulum-v5", num_envs=2),
    "bfloat16": tiny("Pendulum-v1", precision="bfloat16"),
}


class Pruned(Impatient):
    """A trainer that prunes as ``PRUNE`` says."""

    settings = PRUNE

    def __init__(self, config: TrainConfig, spec: EnvSpec, folder: Path, sink: Sink) -> None:
        super().__init__(config, spec, folder, sink, AgentPruner(self.settings, config.model, folder))


class Undoing(Pruned):
    """Its guard lets nothing pass."""

    settings = dataclasses.replace(PRUNE, tolerance=-1e9)


class Watching(Pruned):
    """It records all criteria, and prunes by the importance of levels."""

    settings = dataclasses.replace(PRUNE, observe=True, allocation="importance", history="cosine", bound="lower")


class Observing(Pruned):
    """It records all criteria, and prunes nothing."""

    settings = dataclasses.replace(PRUNE, target=0.0, observe=True)


class Unguarded(Pruned):
    """Without a guard; its steps are twenty times as long."""

    settings = dataclasses.replace(PRUNE, guard=False, start=20 * 24, end=20 * 48, snapshot_every=100)


def records(folder: Path) -> list[dict[str, Any]]:
    lines = [*read(folder / EVENTS), *read(folder / IMPORTANCE)]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def whole_run(config: TrainConfig, folder: Path, kind: type[Trainer] = Pruned) -> Outcome:
    folder.mkdir()
    trainer = open_run(config, folder, kind)
    trainer.run()
    return outcome(trainer)


def macs_left(trainer: Trainer) -> float:
    dense, now = (agent_groups(m, trainer.spec, trainer.config.planner) for m in (SMALL, trainer.agent.config.model))
    return now.cost("macs") / dense.cost("macs")


@pytest.mark.parametrize(
    ("name", "kind"), [*itertools.product(RUNS, (Pruned, Undoing)), ("terminations", Watching), ("one lane", Observing)]
)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, name: str, kind: type[Pruned]) -> None:
    """Stopped at random moments, between and at pruning events, a run ends with the same bits and records."""
    config = RUNS[name]
    expected = whole_run(config, tmp_path / "whole", kind)
    folder = tmp_path / "parts"
    folder.mkdir()
    moments, stops = random.Random(config.env), 0
    for patience in itertools.chain((moments.randint(8, 14) for _ in range(7)), itertools.repeat(-1)):
        trainer = open_run(config, folder, kind)
        trainer.patience = patience
        try:
            trainer.run()
        except Interrupted:
            stops += 1
        else:
            break
    assert stops >= 5
    assert differing(expected, outcome(trainer)) == []
    assert records(folder) == records(tmp_path / "whole")
    expected_decision = {Undoing: {"undone"}, Observing: set()}.get(kind, {"kept"})
    assert {event["decision"] for event in read(folder / EVENTS)} >= expected_decision


@pytest.mark.compiles
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_resumes_behind_an_event(tmp_path: Path) -> None:
    """A run that compiles anew at the widths behind an event ends with the bits of one that compiled at the first."""
    planner = dataclasses.replace(RUNS["one lane"].planner, horizon=1, horizon_schedule=Linear(1, 1, 0))
    loss = dataclasses.replace(RUNS["one lane"].loss, horizon=1)
    config = tiny("Pendulum-v1", compile=True, planner=planner, loss=loss)
    expected = whole_run(config, tmp_path / "whole")
    folder = tmp_path / "parts"
    folder.mkdir()
    trainer = open_run(config, folder, Pruned)
    trainer.patience = 70
    with pytest.raises(Interrupted):
        trainer.run()
    assert macs_left(trainer) < 1
    torch._dynamo.reset()
    compiling.compiled.cache_clear()
    trainer = open_run(config, folder, Pruned)
    trainer.run()
    assert differing(expected, outcome(trainer)) == []


SEAMS = [(Journal, "append"), (Agent, "load_state"), (Replay, "sample"), (checkpoint, "save_file")]


def train_until_killed(config: dict[str, Any], folder: Path, patience: int) -> None:
    """Go on with a pruned run in this process; die before the seam for which there is no more patience."""
    left = [patience]
    for owner, name in SEAMS:
        setattr(owner, name, deadly(getattr(owner, name), left))
    open_run(from_json(TrainConfig, config), folder, Pruned).run()


def test_killed_at_any_step_of_an_event_a_run_resumes(tmp_path: Path) -> None:
    """Killed by SIGKILL inside and between events, again and again, and gone on with, nothing differs."""
    config = tiny("Pendulum-v1", checkpoint_every=7)
    folder = tmp_path / "killed"
    folder.mkdir()
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__, "torch._dynamo"])
    kills = 0
    for patience in itertools.count(14, 2):
        process = server.Process(target=train_until_killed, args=(to_json(config), folder, patience))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    assert kills >= 4
    trainer = open_run(config, folder, Pruned)
    trainer.run()
    assert differing(whole_run(config, tmp_path / "whole"), outcome(trainer)) == []
    assert records(folder) == records(tmp_path / "whole")


def test_a_run_that_undoes_everything_is_a_dense_run(tmp_path: Path) -> None:
    """Observing, judging and undoing leave no trace in the training, bit for bit; nor does watching all criteria."""
    config = RUNS["two lanes"]
    kinds = (Trainer, Undoing, Observing)
    dense, undone, observed = (whole_run(config, tmp_path / kind.__name__, kind) for kind in kinds)
    assert len(read(tmp_path / "Undoing" / EVENTS)) >= 3
    assert len(read(tmp_path / "Observing" / IMPORTANCE)) >= 3 and not read(tmp_path / "Observing" / EVENTS)
    for name, tensor in dense.tensors.items():
        assert torch.equal(tensor, undone.tensors[name]) and torch.equal(tensor, observed.tensors[name])


def test_a_pruned_checkpoint_is_an_ordinary_one(tmp_path: Path) -> None:
    """A pruned run ends with a smaller agent at its target, which loads and plays; its rows tell widths and shares."""
    config = tiny("Pendulum-v1", action_repeat=20, env_steps=60 * 20)  # an episode has 10 decisions
    trainer = open_run(config, tmp_path, Unguarded)
    trainer.run()
    assert 0.2 < macs_left(trainer) <= 0.3
    agent, _ = load_agent(tmp_path)
    assert agent.config.model == trainer.agent.config.model != config.model
    assert agent.model.components["dynamics"][0].weight.shape[0] == agent.config.model.dynamics[0] < SMALL.dynamics[0]
    assert len(evaluate(agent, step=60, episodes=1, seed=0).returns) == 1
    first, *_, last = read_rows(tmp_path / runs.METRICS)
    assert first["prune/macs_left"] == first["prune/parameters_left"] == 1 and first["prune/events"] == 0
    assert last["prune/macs_left"] == macs_left(trainer) and last["prune/events"] == 4
    assert last["width/reward.0"] == agent.config.model.reward[0] < first["width/reward.0"] == SMALL.reward[0]


def test_a_run_short_of_its_target_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run that ends with more than was asked for warns of it."""
    open_run(tiny("Pendulum-v1"), tmp_path, Undoing).run()
    assert caplog.text.count("pruning has not reached its target: 100.0% of the macs are left where 30.0%") == 1


def test_observing_sees_every_update(make_agent: MakeAgent, make_batch: Callable, tmp_path: Path) -> None:
    """Each update of an attached agent, before and after a cut, is one observation of all of its groups."""
    agent = make_agent(terminates=True)
    pruner = AgentPruner(PRUNE, agent.config.model, tmp_path)
    pruner.attach(agent)
    agent.update(make_batch())
    assert pruner.pruner.updates == 1 and (pruner.pruner.decider.statistics.moments["absolute"] > 0).all()
    keep = random_keep(groups_of(agent), {"dynamics.0": 4, "value.1": 3})
    empty = Replay(agent.config.replay, observation_dim=3, action_dim=2, horizon=3)
    smaller = PrunableAgent.of(agent, empty, step=0).shrunk(keep).agent()
    pruner.pruner._replace_groups(keep, groups_of(smaller))
    pruner.attach(smaller)
    smaller.update(make_batch())
    assert pruner.pruner.updates == 2 and len(pruner.pruner.decider.statistics.rate) == groups_of(smaller).total
