"""Laws of compiled functions: one compilation serves all widths, and what it computes hangs on no earlier width."""

import shutil

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from tdmpc import compiling
from tdmpc.actor import Actor
from tests.tdmpc.lives import MakeAgent, MakeBatch

COMPILER = pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")


def compilations() -> int:
    return counters["stats"]["unique_graphs"]


@pytest.mark.compiles
@pytest.mark.slow
@COMPILER
def test_one_compilation_serves_all_widths(make_agent: MakeAgent, make_batch: MakeBatch) -> None:
    """The second agent compiles nothing, and what an agent computes hangs on no width that was compiled before."""

    def told(width: int, *others: int) -> list[Tensor]:
        widths = {"latent": width, "policy": (width, width), "encoder": (width,)}
        widths |= dict.fromkeys(("dynamics", "reward", "value"), others or (width, width))
        short = {"model": widths, "loss": {"horizon": 2, "consistency_width": 50}, "planner": {"horizon": 2}}
        torch.manual_seed(0)
        agent = make_agent(seed=0, compile=True, **short)
        batch = make_batch(steps=2)
        agent.update(batch)
        action = Actor(agent, lanes=2, seed=1).act(batch.observations[0, :2], step=0, explore=False)
        return [action, *agent.model.parameters()]

    first, before = told(23), compilations()
    second = told(15, 12, 17)
    assert before > 0 and compilations() == before
    torch._dynamo.reset()
    compiling.compiled.cache_clear()
    for one, other in zip([*second, *first], [*told(15, 12, 17), *told(23)], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("updates", "device", "compiler", "pays"),
    [(9_999, "cpu", True, False), (10_000, "cpu", True, True), (1e6, "cpu", False, False), (1e6, "cuda", True, False)],
)
def test_long_runs_compile(
    monkeypatch: pytest.MonkeyPatch, updates: float, device: str, compiler: bool, pays: bool
) -> None:
    """A run compiles on a CPU when it is long enough to win the time back and there is a compiler."""
    monkeypatch.setattr(shutil, "which", lambda _: "/bin/c++" if compiler else None)
    assert compiling.pays(updates, device) == pays
