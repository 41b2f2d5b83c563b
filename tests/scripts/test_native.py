"""Laws of the controller in C++: it builds, plans the golden plans, and measures by the same protocol."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tdmpc.deploy import bundle
from tdmpc.deploy.realtime import WAKING_LATENCY
from tdmpc.scripts.main import main
from tdmpc.scripts.native import PROGRAM
from tests.conftest import Shared

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("c++")), reason="needs CMake and a C++ compiler"),
]


@pytest.fixture(scope="module")
def built(shared: Shared) -> Path:
    """The program, compiled once."""

    def make(folder: Path) -> None:
        assert main(["native", "build", f"--build-dir={folder}"]) == 0

    return shared("native", make)


@pytest.fixture
def native(built: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any, str]]:
    """Status, parsed output and errors of a run."""

    def run(folder: Path, *options: str) -> tuple[int, Any, str]:
        capfd.readouterr()
        status = main(["native", "run", str(folder), f"--build-dir={built}", *options])
        out, err = capfd.readouterr()
        return status, json.loads(out) if out else None, err

    return run


@pytest.mark.parametrize("deadline", [[], ["--deadline-ms=60000"]], ids=["planner", "start and refine"])
def test_golden_plans_come_out(exported: Path, native: Callable[..., Any], deadline: list[str]) -> None:
    """The C++ program plans the golden plans as they were exported, also by iterations within a deadline."""
    status, found, _ = native(exported, "--check", *deadline)
    assert status == 0 and found["golden_deviation"] <= 1e-4
    assert found["deadline_ms"] == (60_000 if deadline else None)
    assert (found["language"], found["backend"], found["precision"]) == ("c++", "openvino", "float32")
    assert found["macs"] == bundle.read(exported).macs


@pytest.mark.parametrize("deadline", [[], ["--deadline-ms=5"]], ids=["without", "with a deadline"])
def test_rows_are_those_of_the_python_controller(
    exported: Path, native: Callable[..., Any], capfd: pytest.CaptureFixture[str], deadline: list[str]
) -> None:
    """In both modes its rows have the fields of ``tdmpc latency``, but for what only Python's controller has."""
    quick = ["--calls=30", "--seconds=0.01", "--period-ms=50", "--periods=10", *deadline]
    _, rows, _ = native(exported, *quick)
    capfd.readouterr()
    assert main(["latency", str(exported), "--backend=openvino", "--json", *quick]) == 0
    python = json.loads(capfd.readouterr().out)
    own = {"spinning", "model", "remark"}
    assert [row.keys() - {"golden_deviation"} for row in rows] == [row.keys() - own for row in python]
    assert [row["deadline_ms"] for row in rows] == [row["deadline_ms"] for row in python]
    single, periodic = rows
    assert single["calls"] >= 30 and len(single["repeat_p50_ms"]) == 5
    assert single["min_ms"] <= single["p50_ms"] <= single["max_ms"]
    assert single["p99_ms"] is None or single["calls"] >= 100
    assert periodic["periods"] == 10 and 0 <= periodic["miss_rate"] <= periodic["miss_rate_upper95"] <= 1


def test_what_a_board_measured_becomes_the_same_rows(
    exported: Path, built: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The program alone prints samples, from which ``tdmpc native rows`` tells the figures; another file is refused."""
    samples = tmp_path / "samples.json"
    options = ["--calls=5", "--seconds=0.01", "--period-ms=5", "--periods=20"]
    words = [word for option in options for word in option.split("=")]
    samples.write_bytes(subprocess.run([built / PROGRAM, exported, *words], capture_output=True, check=True).stdout)
    assert main(["native", "rows", str(samples)]) == 0
    single, periodic = json.loads(capfd.readouterr().out)
    times = [1000 * each for wall in json.loads(samples.read_text())[0]["times"]["wall_s"] for each in wall]
    assert (single["calls"], single["max_ms"]) == (len(times), max(times))
    assert (periodic["periods"], periodic["period_ms"]) == (20, 5)
    samples.write_text("[{}]")
    assert main(["native", "rows", str(samples)]) == 2
    assert "samples.json is not what the program printed" in capfd.readouterr().err


def corrupt_golden(folder: Path) -> None:
    path = folder / bundle.GOLDEN
    path.write_bytes(b"\x00\x00\x00\x40" * (path.stat().st_size // 4))


def newer(folder: Path) -> None:
    manifest = json.loads((folder / bundle.MANIFEST).read_text())
    (folder / bundle.MANIFEST).write_text(json.dumps({**manifest, "format_version": 99}))


def test_a_priority_that_is_not_to_be_had_is_said(exported: Path, native: Callable[..., Any]) -> None:
    """A real-time priority outside the system's range is one line on standard error."""
    status, out, err = native(exported, "--check", "--priority=1000")
    assert (status, out) == (2, None) and "real-time priority" in err and err.count("\n") == 1


def test_cores_are_kept_awake_or_it_is_said(exported: Path, native: Callable[..., Any]) -> None:
    """Without the right to keep the cores awake nothing is timed as if they were."""
    status, out, err = native(exported, "--calls=5", "--seconds=0.01", "--awake")
    allowed = os.access(WAKING_LATENCY, os.W_OK)
    assert (status == 0 and out[0]["awake"]) if allowed else (status == 2 and "keep the cores awake" in err)


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        manifest = json.loads((folder / bundle.MANIFEST).read_text())
        change(manifest)
        (folder / bundle.MANIFEST).write_text(json.dumps(manifest))

    return damage


@pytest.mark.parametrize(
    ("damage", "status", "says"),
    [
        (corrupt_golden, 1, "the golden plans come out otherwise"),
        (newer, 2, "has format 99"),
        (lambda folder: (folder / bundle.MANIFEST).write_text("{"), 2, "damaged JSON"),
        (lambda folder: (folder / bundle.PLANNER).unlink(), 2, "planner.onnx cannot be read"),
        (lambda folder: (folder / bundle.PLANNER).write_bytes(b"short"), 2, "is not the file that was exported"),
        (edited(lambda manifest: manifest.pop("files")), 2, "there is no 'files'"),
        (edited(lambda manifest: manifest.update(action=[])), 2, "action must be one item"),
        (edited(lambda manifest: manifest["golden"].update(plans=0)), 2, "no golden plans that can be used"),
        (edited(lambda manifest: manifest["planner"].update(horizon=2)), 2, "input 'previous_mean' has"),
        (edited(lambda manifest: manifest["action"][0].update(high=[9.0])), 2, "exported with another 'action'"),
        (edited(lambda manifest: manifest["observation"][0].update(input="x")), 2, "has no input 'x'"),
    ],
    ids=["golden", "future", "json", "missing", "cut", "files", "actuators", "plans", "horizon", "bounds", "sensor"],
)
def test_a_damaged_bundle_is_refused(
    exported: Path, built: Path, tmp_path: Path, damage: Callable[[Path], object], status: int, says: str
) -> None:
    """A bundle that is damaged, incomplete, from the future or not its manifest's is one line on standard error."""
    # The program stands alone on a board, so it is asked without the command around it.
    folder = Path(shutil.copytree(exported, tmp_path / "bundle"))
    damage(folder)
    found = subprocess.run([built / PROGRAM, folder, "--check"], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (status, "") and says in found.stderr and found.stderr.count("\n") == 1


def replaced(folder: Path) -> None:
    shutil.copy(folder / bundle.PLANNER, folder / bundle.REFINE)
    size = (folder / bundle.PLANNER).stat().st_size
    edited(lambda manifest: manifest["files"][bundle.REFINE].update(bytes=size))(folder)


@pytest.mark.parametrize(
    ("damage", "option", "says"),
    [
        (edited(lambda manifest: manifest["files"].pop("start.onnx")), "", "holds no start.onnx: export with --noise"),
        (edited(lambda manifest: manifest["planner"].update(horizon=2)), "", "start.onnx: input 'previous_mean' has"),
        (edited(lambda manifest: manifest["planner"].update(elites=1)), "", "start.onnx: the graph was exported with"),
        (replaced, "", "refine.onnx has no input 'mean'"),
        (lambda folder: None, "--pipelined", "give deadline_ms or pipelined, not both"),
    ],
    ids=["baked", "horizon", "elites", "refine", "pipelined"],
)
def test_a_deadline_that_cannot_be_kept_is_refused(
    exported: Path, built: Path, tmp_path: Path, damage: Callable[[Path], object], option: str, says: str
) -> None:
    """Without start and refinement of its manifest, or in a pipeline, a deadline is refused in one line."""
    folder = Path(shutil.copytree(exported, tmp_path / "bundle"))
    damage(folder)
    words = [built / PROGRAM, folder, "--deadline-ms", "5", "--period-ms", "5", *option.split()]
    found = subprocess.run(words, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (2, "") and says in found.stderr and found.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "option",
    [
        *("--threads=-3", "--calls=x", "--cores=0,", "--seconds=-1", "--periods=1e99", "--precision=fp32"),
        "--deadline-ms=0",
    ],
)
def test_the_program_refuses_what_it_cannot_do(exported: Path, built: Path, option: str) -> None:
    """Asked without the command around it, the program names the option too."""
    found = subprocess.run([built / PROGRAM, exported, *option.split("=")], capture_output=True, text=True)
    assert found.returncode == 2 and option.partition("=")[0] in found.stderr.split("\n")[0]
