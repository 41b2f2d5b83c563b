"""Laws of compiled functions: one compilation serves all widths, and what it computes hangs on no earlier width."""

import os
import shutil
import sysconfig
from pathlib import Path

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
        short = {"model": widths, "loss": {"horizon": 1, "consistency_width": 50}, "planner": {"horizon": 1}}
        torch.manual_seed(0)
        agent = make_agent(seed=0, compile=True, **short)
        batch = make_batch(steps=1)
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
    ("updates", "device", "compiler", "headers", "pays"),
    [
        (9_999, "cpu", True, True, False),
        (10_000, "cpu", True, True, True),
        (1e6, "cpu", False, True, False),
        (1e6, "cpu", True, False, False),
        (1e6, "cuda", True, True, False),
    ],
)
def test_long_runs_compile(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    updates: float,
    device: str,
    compiler: bool,
    headers: bool,
    pays: bool,
) -> None:
    """A run compiles on a CPU when it is long enough to win the time back and all that PyTorch needs is there."""
    monkeypatch.setattr(shutil, "which", lambda _: "/bin/c++" if compiler else None)
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    if headers:
        (tmp_path / "Python.h").touch()
    assert compiling.pays(updates, device) == pays


@pytest.mark.parametrize("blocked", [False, True])
def test_what_is_compiled_is_kept_where_it_can_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, blocked: bool
) -> None:
    """Compiled code goes among the user's caches; where there can be no such folder, PyTorch's own choice stands."""
    home = tmp_path / "home"
    home.write_text("") if blocked else home.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that what is set below is undone
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    compiling.keep_on_disk()
    found = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    assert found == (None if blocked else str(home / "tdmpc" / "compiled"))
