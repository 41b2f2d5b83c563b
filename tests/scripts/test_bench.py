"""Laws of ``tdmpc bench``: what was timed is said beside every time."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tdmpc.config import TrainConfig
from tdmpc.losses import Targets, model_loss
from tdmpc.macs import planning_macs
from tdmpc.scripts import bench, bench_limit
from tdmpc.scripts.bench_limit import counted_macs
from tdmpc.scripts.main import main

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
        assert row["observed_update_ms_p50"] > 0 and abs(row["observing_share"]) < 1
    assert rows[0]["planning_macs"] < rows[2]["planning_macs"]


@pytest.mark.usefixtures("small")
def test_every_device_is_held_against_what_it_can_do(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    """On each device, plan and update stand beside the fastest large product there: their multiply-adds a second are
    the share of its rate that the row tells.
    """
    precisions = ("float32", "bfloat16")
    assert main(["bench", "--json", "--setting=small", "--device", device, "--precision", *precisions, *QUICK]) == 0
    for row, precision in zip(json.loads(capsys.readouterr().out), precisions, strict=True):
        assert row["device"] == device and ("gpu" in row) == (device == "cuda") and row["precision"] == precision
        for name, macs in {"plan": row["planning_macs"], "update": row["update_macs"]}.items():
            share = macs / (row[f"{name}_ms_p50"] / 1000) / row["matmul_macs_per_s"]
            assert 0 < share == pytest.approx(row[f"{name}_share_of_matmul"], rel=0.02, abs=1e-4)


@pytest.mark.parametrize("compiled", [False, True])
def test_multiply_adds_of_an_update_are_counted(compiled: bool) -> None:
    """PyTorch counts in a plan the multiply-adds that the planner's formula has, and in an update forward and backward
    passes; to count them leaves the timed agent as it was, compiled or not.
    """
    timed = bench.Bench("width-48", "float32", bench.BenchArgs(compile=compiled))
    assert timed.agent.updates == 0
    eager = bench.Bench("width-48", "float32", bench.BenchArgs())
    macs = planning_macs(eager.config.model, bench.CARTPOLE, eager.config.planner)
    assert counted_macs(eager._plan) == sum(macs.values())
    forward = counted_macs(lambda: model_loss(eager.agent.model, eager.batch, goal(eager), config=eager.config.loss))
    assert timed.update_macs == counted_macs(eager._update) > 3 * forward


def goal(timed: bench.Bench) -> Targets:
    """Something for the rollout to be fitted to."""
    steps, size = timed.batch.rewards.shape
    return Targets(torch.zeros(steps, size, timed.config.model.latent), torch.zeros(steps, size))


def test_the_rate_is_that_of_the_fastest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products grow until one takes long enough; the rate is the best of all, each taken at its fastest."""
    times = iter([9.0, 4.0, 2.0, 3.0, 5.0, *[16.0] * 5, *[160.0] * 5])
    monkeypatch.setattr(bench_limit, "milliseconds", lambda call, device: next(times))
    assert bench_limit.matmul_rate(torch.device("cpu"), torch.float32) == 1000 * 512**3 / 16
    assert next(times, None) is None


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
    assert "small" in out and "float32" in out and "plan" in out and "event" in out


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
    timed.pruning.watch("criterion")
    timed._update()
    timed.pruning.watch("nothing")
    timed._update()
    assert timed.pruning.hooks.pruner.updates == 1
    assert timed.pruning.observing.pruner.updates == 0
    after = {name: tensor.clone() for name, tensor in timed.agent.state().items()}
    timed.pruning.event()
    assert all(torch.equal(tensor, after[name]) for name, tensor in timed.agent.state().items())


def test_every_update_that_is_timed_for_all_criteria_is_looked_at() -> None:
    """All criteria look at every eighth update; those that are timed are such ones, so that the cost is an eighth."""
    timed = bench.Bench("width-48", "float32", bench.BenchArgs(rounds=1, calls=1))
    (observer,) = timed.pruning.observing.pruner.observers.values()
    weights = []
    for _ in range(3):
        timed.pruning.watch("all")
        timed._update()
        weights.append(observer.statistics.weight)
    assert observer.every == 8 and 0 < weights[0] < weights[1] < weights[2]


@pytest.mark.parametrize("option", ["--rounds=0", "--calls=0", "--threads=-3"])
def test_numbers_out_of_range_are_one_line(fails: Callable[..., str], option: str) -> None:
    """A number of rounds, calls or threads that nothing can be timed with is told in one line."""
    name, _, value = option.partition("=")
    assert f"{name} must be" in (told := fails("bench", option)) and told.endswith(value)
