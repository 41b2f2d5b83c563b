"""Laws of the commands around a bundle: what a run becomes, and what is printed of it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tdmpc.deploy import bundle, leapp
from tdmpc.deploy.bundle import BundleError
from tdmpc.deploy.controller import Controller
from tdmpc.scripts.main import main

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
    """``tdmpc export`` leaves graphs, golden plans, how sensors change, a description for LEAPP, and a manifest that
    knows what the run's evaluation found.
    """
    names = {bundle.PLANNER, bundle.START, bundle.REFINE, bundle.POLICY, bundle.GOLDEN, bundle.MANIFEST}
    names |= {bundle.LAW, leapp.FILE}
    assert {path.name for path in exported.iterdir()} == names
    summary = json.loads((trained / "summary.json").read_text())
    assert bundle.read(exported).manifest["training"]["return_mean"] == summary["return_mean"]


def test_what_was_compared_is_shown(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``tdmpc export`` shows sizes, plans compared and the largest difference; a narrower planner is an option."""
    assert main(["export", str(trained), "--out", str(tmp_path / "b"), "--iterations=1", "--noise=baked"]) == 0
    out = capsys.readouterr().out
    assert "plans compared with the agent" in out and "largest difference of a plan" in out and "elites tie" in out
    assert bundle.read(tmp_path / "b").iterations == 1


def test_validation_is_one_object(exported: Path, printed: Printed) -> None:
    """``tdmpc validate --json`` prints both returns and the largest difference of an action."""
    found = printed("validate", str(exported), "--episodes=2", "--json")
    assert found.keys() >= {"bundle_return_mean", "torch_return_mean", "max_action_difference", "ties", "regret"}
    assert (found["result"], found["failures"]) == ("passed", [])
    assert found["max_action_difference"] <= 1e-5 and found["episodes"] == 2
    assert found["bundle_return_mean"] == pytest.approx(found["torch_return_mean"], rel=0.5)


def test_a_bundle_that_decides_otherwise_fails(
    exported: Path, printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a bundle differs from its agent, ``tdmpc validate`` says "failed", why, and exits with status 1."""
    monkeypatch.setattr("tdmpc.deploy.parity.TOLERANCE", -1.0)
    found = printed("validate", str(exported), "--episodes=1", "--json", status=1)
    assert found["result"] == "failed" and "the mean after an iteration" in " ".join(found["failures"])


def test_validation_for_the_eye(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without ``--json`` a table has the same figures, small differences included."""
    assert main(["validate", str(exported), "--episodes=1"]) == 0
    out = capsys.readouterr().out
    assert "torch_return_mean" in out and "max_action_difference" in out and "passed" in out


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
    assert (own["precision"], told["precision"]) == ("float32", "bfloat16")
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
    assert "--episodes must be positive" in fails("validate", str(exported), "--episodes=0")
    assert "give --period-ms, too" in fails("latency", str(exported), "--pipelined")
    assert "export it with --delay 1".lower() in fails("latency", str(exported), "--pipelined", "--period-ms=5").lower()
    assert "make it first by: tdmpc native build" in fails("native", "run", str(exported), "--build-dir", str(tmp_path))


def test_real_time_that_cannot_be_is_one_line(fails: Callable[..., str], exported: Path, tmp_path: Path) -> None:
    """Without real time nothing takes time; two times, none, or one of another bundle are told in one line."""
    (tmp_path / "times.json").write_text("[]")
    times = f"--latency={tmp_path / 'times.json'}"
    validate = ("validate", str(exported))
    assert "--slowdown says how long decisions take" in fails(*validate, "--slowdown=2")
    assert "--policy says" in fails(*validate, "--policy=prior")
    assert "give one of them" in fails(*validate, "--real-time", "--latency-ms=3", times)
    assert "holds no times of" in fails(*validate, "--real-time", times)
    assert "holds times of the planner" in fails(*validate, "--real-time", times, "--policy=prior")
    assert "tells no control period" in fails(*validate, "--real-time", "--latency-ms=3")


OUT_OF_RANGE = {
    "validate": ["--threads=-3", "--threads=0", "--seed=-1", "--slowdown=0", "--latency-ms=-1"],
    "latency": ["--threads=-3", "--calls=0", "--periods=0", "--seconds=-1", "--seconds=nan", "--cores=-1"],
    "native run": [
        *("--threads=-3", "--calls=0", "--periods=0", "--seconds=-1", "--period-ms=-1", "--cores=-1"),
        "--deadline-ms=0",
    ],
    "export": ["--opset=0", "--seed=-1", "--samples=0"],
}


@pytest.mark.parametrize(
    ("command", "option"), [(name, each) for name, group in OUT_OF_RANGE.items() for each in group]
)
def test_numbers_out_of_range_are_one_line(
    fails: Callable[..., str], exported: Path, trained: Path, tmp_path: Path, command: str, option: str
) -> None:
    """A number that no command can work with is told in one line that names the option and the number."""
    subject = [str(trained), f"--out={tmp_path / 'b'}"] if command == "export" else [str(exported)]
    name, _, value = option.partition("=")
    told = fails(*command.split(), *subject, option)
    assert name in told and value in told and "must be" in told


def test_an_opset_that_is_not_to_be_had_is_said(fails: Callable[..., str], trained: Path, tmp_path: Path) -> None:
    """A version of ONNX's operators that PyTorch would silently replace by another one is refused."""
    assert "--opset 3 is not to be had" in fails("export", str(trained), f"--out={tmp_path / 'b'}", "--opset=3")


def without(part: str) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest.pop(part)


DAMAGED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no files": (without("files"), "files is missing"),
    "wrong files": (lambda manifest: manifest.update(files=["planner.onnx"]), "files must be an object"),
    "no environment": (without("environment"), "environment is missing"),
    "no macs": (without("macs"), "macs is missing"),
    "a horizon of nothing": (lambda manifest: manifest["planner"].update(horizon=0), "planner.horizon must be"),
    "another horizon": (lambda manifest: manifest["planner"].update(horizon=2), "'previous_mean' has shape (2, "),
    "noise of no shape": (lambda manifest: manifest["noise"]["inputs"].update(noise_policy=3), "noise_policy must be"),
    "no golden plans": (lambda manifest: manifest["golden"].update(plans=0), "golden.plans must be"),
    "wider bounds": (lambda manifest: manifest["action"][0].update(high=[9.0]), "action[0].high[0] is 9.0, the graph"),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGED.values(), ids=DAMAGED)
def test_a_manifest_that_is_not_the_bundles_is_one_line(
    fails: Callable[..., str], exported: Path, tmp_path: Path, damage: Callable[[dict[str, Any]], object], says: str
) -> None:
    """Every command that reads a bundle refuses such a manifest in one line that names the part."""
    folder = Path(shutil.copytree(exported, tmp_path / "bundle"))
    manifest = json.loads((folder / bundle.MANIFEST).read_text())
    damage(manifest)
    (folder / bundle.MANIFEST).write_text(json.dumps(manifest))
    commands = [("latency",), ("validate",)]
    if "the graph" not in says:  # the controller in C++ may not have been built
        commands += [("native", "run")]
    for command in commands:
        assert says in fails(*command, str(folder))
    with pytest.raises(BundleError) as error:
        Controller.load(folder)
    assert says in str(error.value)
