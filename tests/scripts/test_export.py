"""Laws of the commands around a bundle: what a run becomes, and what is printed of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy import bundle
from scripts.main import main

pytestmark = pytest.mark.slow
Printed = Callable[..., Any]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    """The JSON that a command prints, and nothing beside it."""

    def run(*arguments: str, status: int = 0) -> Any:
        capsys.readouterr()
        assert main(list(arguments)) == status
        return json.loads(capsys.readouterr().out)

    return run


def test_a_run_becomes_a_bundle(exported: Path, trained: Path, tmp_path: Path) -> None:
    """``tdmpc export`` leaves graphs, golden plans and a manifest that knows what the run's evaluation found."""
    names = {bundle.PLANNER, bundle.START, bundle.REFINE, bundle.POLICY, bundle.GOLDEN, bundle.MANIFEST}
    assert {path.name for path in exported.iterdir()} == names
    summary = json.loads((trained / "summary.json").read_text())
    assert bundle.read(exported).manifest["training"]["return_mean"] == summary["return_mean"]


def test_what_was_compared_is_shown(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``tdmpc export`` shows sizes, plans compared and the largest difference; a narrower planner is an option."""
    assert main(["export", str(trained), "--out", str(tmp_path / "b"), "--iterations=1", "--noise=baked"]) == 0
    out = capsys.readouterr().out
    assert "plans compared with the agent" in out and "largest difference of a plan" in out
    assert bundle.read(tmp_path / "b").iterations == 1


def test_validation_is_one_object(exported: Path, printed: Printed) -> None:
    """``tdmpc validate --json`` prints both returns and the largest difference of an action."""
    found = printed("validate", str(exported), "--episodes=2", "--json")
    assert found.keys() >= {"bundle_return_mean", "torch_return_mean", "max_action_difference", "undecided"}
    assert found["max_action_difference"] <= 1e-5 and found["episodes"] == 2
    assert found["bundle_return_mean"] == pytest.approx(found["torch_return_mean"], rel=0.5)


def test_a_bundle_that_decides_otherwise_fails(
    exported: Path, printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a single-precision bundle differs from its agent, ``tdmpc validate`` says so by its status."""
    monkeypatch.setattr("scripts.validate.TOLERANCE", -1.0)
    assert printed("validate", str(exported), "--episodes=1", "--json", status=1)["precision"] == "fp32"


def test_validation_for_the_eye(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without ``--json`` a table has the same figures, small differences included."""
    assert main(["validate", str(exported), "--episodes=1"]) == 0
    out = capsys.readouterr().out
    assert "torch_return_mean" in out and "max_action_difference" in out


QUICK = ("--calls=30", "--seconds=0.01", "--periods=10")
PROMISED = ["bundle", "backend", "precision", "threads", "mode", "calls", "p50_ms", "p99_ms", "max_ms", "contended"]
PERIODIC = ["period_ms", "misses", "miss_rate_upper95"]


def test_latencies_are_a_list(exported: Path, trained: Path, printed: Printed, tmp_path: Path) -> None:
    """``tdmpc latency --json`` has a row for each bundle, backend and mode, and for the agent in PyTorch."""
    rows = printed(
        *("latency", str(exported), "--torch", str(trained), "--backend", "onnxruntime", "openvino"),
        *("--period-ms=50", "--json", "--plot", str(tmp_path / "latency.png"), *QUICK),
    )
    backends = ["onnxruntime", "openvino", "torch"]
    assert [(row["backend"], row["mode"]) for row in rows] == [
        (backend, mode) for mode in ("single", "periodic") for backend in backends
    ]
    for row in rows:
        assert row.keys() >= {*PROMISED, *(PERIODIC if row["mode"] == "periodic" else ())}
        assert 0 < row["p50_ms"] <= row["max_ms"] and row["macs"] > 0 and row["load_s"] > 0
    assert rows[0]["return_mean"] == bundle.read(exported).manifest["training"]["return_mean"]
    assert (tmp_path / "latency.png").stat().st_size > 1000


def test_the_agent_is_timed_as_asked(trained: Path, printed: Printed) -> None:
    """In PyTorch an agent plans at its full horizon in the precision of its training, or as told."""
    (own,) = printed("latency", "--torch", str(trained), "--json", *QUICK)
    options = ("--torch-horizon=1", "--torch-precision=bfloat16")
    (told,) = printed("latency", "--torch", str(trained), "--json", *options, *QUICK)
    assert (own["precision"], told["precision"]) == ("fp32", "bf16")
    assert told["macs"] < own["macs"]


def test_latencies_for_the_eye(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without ``--json`` the rows are a table, with a deadline the controllers keep it."""
    assert main(["latency", str(exported), "--deadline-ms=1000", "--period-ms=50", *QUICK]) == 0
    out = capsys.readouterr().out
    assert exported.name in out and "p99.9" in out and "load_before" in out


def test_bundles_that_cannot_be_used_are_one_line(
    fails: Callable[..., str], exported: Path, trained: Path, tmp_path: Path
) -> None:
    """What is no bundle, no run, in the way, or no number is told in one line by each command."""
    assert "is no controller bundle" in fails("latency", str(tmp_path))
    assert "is no controller bundle" in fails("validate", str(trained))
    assert "never overwritten" in fails("export", str(trained), "--out", str(exported))
    assert "holds no checkpoint" in fails("export", str(tmp_path), "--out", str(tmp_path / "b"))
    assert "which bundle?" in fails("latency")
    assert "cannot run at real-time priority 1000" in fails("latency", str(exported), "--priority=1000")
    assert "--torch-horizon must be positive, got 0" in fails("latency", str(exported), "--torch-horizon=0")
    assert "--period-ms must be positive, got 0" in fails("latency", str(exported), "--period-ms=0")
    assert "--episodes must be at least 1" in fails("validate", str(exported), "--episodes=0")
    assert "make it first by: tdmpc native build" in fails("native", "run", str(exported), "--build-dir", str(tmp_path))
