"""Laws of ``tdmpc bench``: what was timed is said beside every time."""

import dataclasses
import json
from collections.abc import Callable

import pytest

from scripts import bench
from scripts.main import main
from tdmpc.config import TrainConfig

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
    assert rows[0]["planning_macs"] < rows[2]["planning_macs"]


@pytest.mark.usefixtures("small")
def test_a_table_for_the_eye(capsys: pytest.CaptureFixture[str]) -> None:
    """Without ``--json`` the times are a table."""
    assert main(["bench", "--setting", "small", "--precision", "float32", *QUICK]) == 0
    out = capsys.readouterr().out
    assert "small" in out and "float32" in out and "plan_ms" in out


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
