"""Laws of ``tdmpc bench``: what was timed is said beside every time."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scripts import bench
from scripts.main import main
from tdmpc.config import TrainConfig
from tdmpc.planner import planning_macs

QUICK = ["--rounds=1", "--calls=2", "--threads=1"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that takes milliseconds."""
    full: Callable[[], TrainConfig] = bench.SETTINGS["width-48"]

    def make() -> TrainConfig:
        config = full()
        planner = dataclasses.replace(config.planner, samples=32, elites=8, iterations=2)
        return dataclasses.replace(config, planner=planner, batch_size=16)

    monkeypatch.setitem(bench.SETTINGS, "small", make)


@pytest.mark.usefixtures("small")
def test_json_is_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    """``--json`` prints a list with one object for each setting and precision, each with its times and conditions."""
    settings = ["--setting", "small", "width-48", "--precision", "float32", "bfloat16"]
    assert main(["bench", "--json", *settings, *QUICK]) == 0
    rows = json.loads(capsys.readouterr().out)
    names = [(row["setting"], row["precision"]) for row in rows]
    assert names == [(name, kind) for name in ("small", "width-48") for kind in ("float32", "bfloat16")]
    for row in rows:
        assert row["threads"] == 1 and row["plan_ms_p50"] > 0 and row["update_ms_p50"] > 0
        assert row["decisions_per_s"] == pytest.approx(1000 / (row["plan_ms_p50"] + row["update_ms_p50"]), rel=0.02)
        assert row.keys() >= {
            "processor",
            "load_before",
            "load_after",
            "torch",
            "parameters",
            "planning_macs",
            "horizon",
        }
        assert row["watched_update_ms_p50"] > 0 and row["event_ms_p50"] > 0
    assert rows[0]["planning_macs"] < rows[2]["planning_macs"]


@pytest.mark.usefixtures("small")
def test_a_profile_names_what_takes_the_time(tmp_path: Path, fails: Callable[..., str]) -> None:
    """``--profile`` writes operators of plan and update with their times; a missing folder is said at once."""
    assert "its folder is not there" in fails("bench", "--setting", "small", f"--profile={tmp_path}/no/file.txt")
    file = tmp_path / "profile.txt"
    assert main(["bench", "--setting", "small", "--precision", "float32", f"--profile={file}", *QUICK]) == 0
    plan, update = file.read_text().split("small, float32: 2 calls of ")[1:]
    assert plan.startswith("plan") and "aten::topk" in plan and "Self CPU" in plan
    assert update.startswith("update") and "aten::topk" not in update and "Backward" in update


@pytest.mark.usefixtures("small")
def test_a_table_for_the_eye(capsys: pytest.CaptureFixture[str]) -> None:
    """Without ``--json`` the times are a table."""
    assert main(["bench", "--setting", "small", "--precision", "float32", *QUICK]) == 0
    out = capsys.readouterr().out
    assert "small" in out and "float32" in out and "plan ms" in out and "event ms" in out


def test_the_reference_has_the_published_sizes() -> None:
    """The setting ``reference`` times TD-MPC's own sizes on cartpole-swingup, at the full horizon."""
    config = bench.SETTINGS["reference"]()
    model, planner = config.model, config.planner
    assert (model.latent, model.encoder, model.dynamics, model.value) == (50, (256,), (512, 512), (512, 512))
    assert (planner.horizon, planner.samples, planner.policy_trajectories) == (5, 512, 25)
    assert (planner.elites, planner.iterations, config.batch_size) == (64, 6, 512)
    assert bench.CARTPOLE.observation_dim == 5 and bench.CARTPOLE.action_repeat == 8
    args = bench.BenchArgs(rounds=1, calls=1)
    timed = bench.Bench("width-48", "float32", args).config.planner
    assert int(timed.horizon_schedule(0)) == timed.horizon == 5


@pytest.mark.parametrize("share", [0.75, 0.97])
def test_pruned_sizes_are_those_of_a_pruned_agent(share: float) -> None:
    """The settings named after a share have lost that share of the multiply-adds of the preset's plan."""
    for name in ("reference", "default"):
        dense, small = (bench.SETTINGS[setting]() for setting in (name, f"{name}-{share}"))
        macs = [sum(planning_macs(config.model, bench.CARTPOLE, dense.planner).values()) for config in (dense, small)]
        assert 1 - macs[1] / macs[0] == pytest.approx(share, abs=0.01) and small.planner == dense.planner


def test_an_event_leaves_the_timed_agent_whole() -> None:
    """Events are timed on an agent that stays as it is; watched updates are observed, the others are not."""
    timed = bench.Bench("width-48", "float32", bench.BenchArgs(rounds=1, calls=1))
    timed.pruning.watch(True)
    timed._update()
    timed.pruning.watch(False)
    timed._update()
    assert timed.pruning.hooks.pruner.updates == 1
    after = {name: tensor.clone() for name, tensor in timed.agent.state().items()}
    timed.pruning.event()
    assert all(torch.equal(tensor, after[name]) for name, tensor in timed.agent.state().items())


@pytest.mark.parametrize("option", ["--rounds=0", "--calls=0", "--threads=-3"])
def test_numbers_out_of_range_are_one_line(fails: Callable[..., str], option: str) -> None:
    """A number of rounds, calls or threads that nothing can be timed with is told in one line."""
    name, _, value = option.partition("=")
    assert f"{name} must be" in (told := fails("bench", option)) and told.endswith(value)
