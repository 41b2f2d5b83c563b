"""Laws of reading a bundle: what is damaged, foreign or from the future is refused in one sentence that helps."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis.strategies as st
import numpy as np
import onnx
import pytest
from hypothesis import given
from packaging.requirements import Requirement

from tdmpc.deploy import backends, bundle, realtime
from tdmpc.deploy.backends import Runtime
from tdmpc.deploy.bundle import Bundle, BundleError
from tdmpc.deploy.contract import golden_plans
from tdmpc.deploy.controller import Controller
from tests.deploy.conftest import MANIFEST, Exported

ROOT = Path(__file__).resolve().parents[2]


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / bundle.MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_a_flat_observation_is_split_into_its_sensors(described: Bundle) -> None:
    """Numbers that stand one behind the other go to the sensors in their order, in the sensors' shapes."""
    found = described.readings(np.float32([0.1, 0.2, 1.5]))
    assert {name: values.tolist() for name, values in found.items()} == {
        "joint": pytest.approx([0.1, 0.2]),
        "body/height": 1.5,
    }


def test_a_manifest_is_read(described: Bundle) -> None:
    """Sensors, bounds, planner and noise are as the manifest has them."""
    assert [(sensor.name, sensor.shape) for sensor in described.sensors] == [("joint", (2,)), ("body/height", ())]
    assert described.low.tolist() == [-1.0, 0.5] and described.high.tolist() == [3.0, 2.5]
    assert (described.horizon, described.iterations, described.macs, described.action_dim) == (3, 2, 1000, 2)
    assert described.noise_shapes["noise_samples"] == (2, 3, 4, 2)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "has no manifest.json"),
        ("{", "is damaged"),
        ("[]", "is damaged"),
        (json.dumps({**MANIFEST, "format_version": bundle.FORMAT_VERSION + 1}), "has format 4, .* update tdmpc"),
        (json.dumps({name: part for name, part in MANIFEST.items() if name != "planner"}), r"is damaged .*planner"),
        (json.dumps({**MANIFEST, "action": []}), "is damaged"),
    ],
    ids=["none", "cut short", "something else", "of the future", "without a part", "without actuators"],
)
def test_a_manifest_that_cannot_be_used_is_refused(tmp_path: Path, content: str | None, says: str) -> None:
    """A missing, damaged or newer manifest is one error that says which and what to do."""
    if content is not None:
        (tmp_path / bundle.MANIFEST).write_text(content)
    with pytest.raises(BundleError, match=says):
        Controller.load(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=3), parts, max_size=3),
    max_leaves=5,
)


@given(data=st.data(), junk=JSON | st.just(KeyError))
def test_any_damage_is_one_error(data: st.DataObject, junk: Any) -> None:
    """Whatever stands in place of any part of a manifest, or if it is missing, reading it succeeds or is one error."""
    manifest: Any = json.loads(json.dumps(MANIFEST))
    part, keys = manifest, []
    while isinstance(part, dict | list) and part and (not keys or data.draw(st.booleans())):
        keys.append((part, data.draw(st.sampled_from(list(part) if isinstance(part, dict) else range(len(part))))))
        part = part[keys[-1][1]]
    whole, key = keys[-1]
    if junk is KeyError:
        del whole[key]
    else:
        whole[key] = junk
    with TemporaryDirectory() as folder:
        (Path(folder) / bundle.MANIFEST).write_text(json.dumps(manifest))
        with suppress(BundleError):
            described = bundle.read(folder)
            assert described.macs >= 0 and described.model_id and next(described.golden_tolerances)
            assert described.control_period_ms is None or described.control_period_ms > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [bundle.PLANNER, bundle.START, bundle.REFINE, bundle.POLICY, bundle.GOLDEN])
def test_a_changed_file_is_refused(copied: Path, name: str) -> None:
    """One bit flipped anywhere in a file is found before the file is used."""
    path = copied / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(BundleError, match=rf"{name} is not the file that was exported: its hash is \w+\.\.\."):
        bundle.read(copied).file(name)


@pytest.mark.slow
def test_a_missing_file_is_refused(copied: Path) -> None:
    """A bundle copied only in part says which file is missing, when it is loaded."""
    (copied / bundle.PLANNER).unlink()
    with pytest.raises(BundleError, match=r"planner.onnx cannot be read .*copy the whole bundle again"):
        Controller.load(copied)


@pytest.mark.slow
def test_a_bundle_of_before_is_read(copied: Path) -> None:
    """A bundle of format 1 is read: float32 is fp32 there, multiply-adds are those of the pruned widths, and where
    golden plans have no tolerances, those of single precision hold."""

    def older(manifest: dict[str, Any]) -> None:
        manifest.update(format_version=1, precision="fp32")
        del manifest["as_run"], manifest["golden"]["tolerance"]

    for path in copied.glob("*.onnx"):
        graph = onnx.load(path)
        (metadata,) = graph.metadata_props
        stated = json.loads(metadata.value)
        older(stated)
        metadata.value = json.dumps(stated)
        onnx.save(graph, path)

    def hashed(manifest: dict[str, Any]) -> None:
        older(manifest)
        for name, file in manifest["files"].items():
            file["sha256"] = bundle.sha256(copied / name)

    rewrite(copied, hashed)
    controller = Controller.load(copied)
    assert controller.precision == "float32"
    assert controller.bundle.macs == sum(controller.bundle.manifest["macs"].values())
    plans = golden_plans(controller.bundle, Runtime())
    assert all(plan.holds and (plan.allowed_action, plan.allowed_value) == (1e-4, math.inf) for plan in plans)


@pytest.mark.slow
def test_an_unknown_deadline_is_refused(copied: Path) -> None:
    """A deadline of no time at all is refused."""
    with pytest.raises(BundleError, match="deadline_ms must be positive, got 0"):
        Controller.load(copied, deadline_ms=0)


@pytest.mark.parametrize(
    ("module", "backend", "line"),
    [("onnxruntime", "onnxruntime", "tdmpc[deploy]"), ("openvino", "openvino", "tdmpc[openvino]")],
)
def test_a_missing_backend_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, backend: Any, line: str
) -> None:
    """A backend that is not installed is told with the pip line that mends it."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError) as error:
        backends.load(tmp_path / "planner.onnx", Runtime(backend=backend))
    assert f"pip install '{line}'" in str(error.value)


def test_cores_that_do_not_exist_are_refused() -> None:
    """An affinity that the machine cannot give names the cores."""
    with pytest.raises(BundleError, match="cannot stay on cores 4000"):
        realtime.pin((4000,))


def needed(*names: str) -> set[str]:
    """Distributions that pip would install for these, and no others."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            required = [Requirement(line) for line in distribution(name).requires or []]
            waiting += [each.name for each in required if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


def clean_environment(folder: Path) -> Path:
    """What ``pip install '.[deploy]'`` leaves: our packages, numpy, ONNX Runtime and what these need."""
    for name in needed("numpy", "onnxruntime"):
        installed = distribution(name)
        tops = {file.parts[0] for file in installed.files or [] if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            target = folder / top
            if not target.exists():
                target.symlink_to(Path(str(installed.locate_file(top))))
    for package in ("tdmpc", "deploy"):
        (folder / package).symlink_to(ROOT / package)
    return folder


def test_a_priority_that_is_not_to_be_had_is_said() -> None:
    """A real-time priority outside the system's range says which there are."""
    with pytest.raises(BundleError, match=r"real-time priority 1000.*2 to 99"):
        realtime.prioritise(1000)


def test_cores_are_kept_awake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The wish for no waking latency stands as long as the process; where it cannot be told, it is said."""
    device = tmp_path / "latency"
    monkeypatch.setattr(realtime, "WAKING_LATENCY", device)
    monkeypatch.setattr(realtime, "_no_latency", cache(realtime._no_latency.__wrapped__))
    with pytest.raises(BundleError, match=r"cannot keep the cores awake.*/latency"):
        realtime.stay_awake()
    assert not realtime.awake() and not device.exists()
    device.touch()
    realtime.stay_awake()
    realtime.stay_awake()
    assert realtime.awake() and device.read_bytes() == bytes(4)
    assert not realtime._no_latency().closed
    realtime._no_latency().close()


@pytest.mark.slow
def test_a_controller_needs_numpy_and_a_runtime_alone(export_case: Callable[[str], Exported], tmp_path: Path) -> None:
    """Where PyTorch, Gymnasium, MuJoCo and the command line's libraries are not installed, a controller acts."""
    program = (
        "from importlib.util import find_spec\n"
        "absent = ('torch', 'gymnasium', 'mujoco', 'jaxtyping', 'tyro', 'onnx')\n"
        "assert not [name for name in absent if find_spec(name)]\n"
        "from tdmpc.deploy import Controller\n"
        f"c = Controller.load({str(export_case('default').folder)!r}, on_fault='prior')\n"
        "c.reset(seed=0)\n"
        "print(c.act([0.1, 0.2]))\n"
        "print(c.act([float('nan'), 0.2]))\n"
        "import tdmpc.deploy.timing\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={"PYTHONPATH": str(clean_environment(tmp_path)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[") == 2


def test_importing_is_quick() -> None:
    """Importing the controller loads numpy and the standard library, not even a runtime."""
    program = (
        "import sys; from tdmpc.deploy import Controller\n"
        "heavy = {'onnxruntime', 'openvino', 'torch', 'onnx', 'gymnasium', 'matplotlib', 'rich', 'tyro', 'scipy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
