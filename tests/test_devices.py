"""Laws of computing elsewhere than on the CPU: on a GPU, and on the device that stands in for one."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tdmpc.agent import Agent
from tdmpc.compression.importance import CRITERIA, Evidence, Tally, kept, moments_of, nothing_seen, observed, sums_of
from tdmpc.compression.records import EVENTS, read
from tdmpc.compression.tdmpc_agent.groups import agent_groups
from tdmpc.config import TrainConfig
from tdmpc.deploy.export import export
from tdmpc.deploy.original import ExportConfig
from tdmpc.evaluation import evaluate
from tdmpc.runs import load_agent
from tdmpc.spec import EnvSpec
from tdmpc.trainer import Interrupted, Trainer
from tests import stand_in
from tests.compression.tdmpc_agent.test_hook import PRUNE, Pruned, records
from tests.tdmpc.conftest import close_runs, make_config, make_spec, open_run, tiny  # noqa: F401 - fixtures
from tests.tdmpc.outcomes import differing, outcome

pytestmark = pytest.mark.usefixtures("close_runs")


REPEAT = 20
"""An episode has 10 decisions."""


class Guarded(Pruned):
    """Two events, and its guard lets them pass."""

    settings = dataclasses.replace(
        PRUNE, start=REPEAT * 12, end=REPEAT * 20, events=2, tolerance=1e9, snapshot_every=REPEAT * 7
    )


class Undoing(Pruned):
    """Its guard lets nothing pass."""

    settings = dataclasses.replace(Guarded.settings, tolerance=-1e9)


def short(device: str) -> TrainConfig:
    """A run of 22 decisions, almost half of them planned."""
    changes = {"env_steps": REPEAT * 22, "random_steps": 12, "pretrain_updates": 4, "action_repeat": REPEAT}
    return tiny("Pendulum-v1", device=device, **changes)


def test_a_tensor_elsewhere_is_guarded(device: str) -> None:
    """A device takes no tensor of the CPU beside its own and gives no numbers away uncopied: other tests rely on it."""
    here, there = torch.ones(3), torch.ones(3, device=device)
    for mix in (lambda: here + there, lambda: torch.cat([there, here]), lambda: there[:2].lerp_(here[:2], 0.5)):
        with pytest.raises(RuntimeError, match="device"):
            mix()
    with pytest.raises((TypeError, RuntimeError), match="numpy"):
        there.numpy()
    assert torch.equal((there + here.to(device)).cpu(), 2 * here) and there.add_(torch.tensor(2.0)).sum().item() == 9


def total_scores(agent: Agent, name: Any, device: str) -> Tensor:
    """Scores of an agent's groups after two gradients, before and after a cut."""
    groups = agent_groups(agent.config.model, agent.spec, agent.config.planner)
    tally, wanted = Tally(groups, device), ("absolute", "squared", "taylor")
    weights = {key: parameter.detach().to(device) for key, parameter in agent.model.named_parameters()}
    statistics = nothing_seen(groups.total, wanted, device)
    for scale in (1.0, -3.0):
        half = {key: scale * weight.cos() for key, weight in weights.items() if "value" not in key}
        moments = moments_of(sums_of(weights, half, tally, wanted), tally)
        statistics = observed(statistics, moments, smoothing=0.9, forgetting=0.5)
    assert len(kept(statistics, torch.arange(3)).rate) == 3
    scores = CRITERIA[name](Evidence(statistics, weights, groups, tally, torch.Generator().manual_seed(0)))
    assert name == "random" or scores.device.type == device
    return scores.cpu()


@pytest.mark.parametrize("name", CRITERIA)
def test_scores_are_made_where_the_gradients_are(
    name: str,
    device: str,
    make_config: Callable[..., TrainConfig],  # noqa: F811
    make_spec: Callable[..., EnvSpec],  # noqa: F811
) -> None:
    """Sums, statistics and scores of every criterion stay on the device of the gradients, and are those of the CPU."""
    agent = Agent(make_config(), make_spec())
    torch.testing.assert_close(total_scores(agent, name, device), total_scores(agent, name, "cpu"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Guarded, Undoing])
def test_a_pruned_run_goes_on_exactly(tmp_path: Path, device: str, kind: type[Pruned]) -> None:
    """On a device a run trains, absorbs, cuts, is judged and resumes; stopped and gone on with, it has the
    bits of an uninterrupted one: on a GPU of one there, elsewhere of one on the CPU.
    """
    whole, folder = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), folder.mkdir()
    expected = open_run(short("cpu" if device == stand_in.NAME else device), whole, kind)
    expected.run()
    for patience in (21, 9):  # before the first event, and before the second
        stopped = open_run(short(device), folder, kind)
        stopped.patience = patience
        with pytest.raises(Interrupted):
            stopped.run()
    trainer = open_run(short(device), folder, kind)
    trainer.run()
    elsewhere = [tensor.device.type for name, tensor in trainer.agent.state().items() if "components" in name]
    assert set(elsewhere) == {device}
    assert set(differing(brought(expected), brought(trainer))) <= {"config"}
    assert records(folder) == records(whole)
    assert {event["decision"] for event in read(folder / EVENTS)} == {"undone" if kind is Undoing else "kept"}


def brought(trainer: Trainer) -> Any:
    """What a run came to, on the CPU."""
    came_to = outcome(trainer)
    return came_to._replace(tensors={name: tensor.cpu() for name, tensor in came_to.tensors.items()})


@pytest.mark.slow
def test_an_agent_is_exported_from_where_it_learned(tmp_path: Path, device: str) -> None:
    """What was trained on a device is loaded and played on the CPU and back there, and exported."""
    run = tmp_path / "run"
    run.mkdir()
    trainer = open_run(short(device), run)
    trainer.run()
    with torch.no_grad():
        for parameter in trainer.agent.model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    trainer.save()
    for place in ("cpu", device):
        agent, _ = load_agent(run, device=place)
        assert agent.device.type == place
        assert len(evaluate(agent, step=22, episodes=1, seed=0).returns) == 1
        weights = zip(agent.model.parameters(), trainer.agent.model.parameters(), strict=True)
        assert all(torch.equal(loaded.cpu(), learned.cpu()) for loaded, learned in weights)
    assert export(run, tmp_path / "bundle", ExportConfig())["parity"]["plans"] > 0
