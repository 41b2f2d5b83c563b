"""A controller bundle as a robot reads it: a manifest, and files whose hashes it holds.

The manifest is JSON that anything can read; ``tdmpc.deploy.export`` writes it, ``docs/deployment.md`` describes it.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from tdmpc.deploy import schema

FORMAT_VERSION = 3
"""2 knows no delay and no limit of change, 1 has ``fp32`` for ``float32`` and no ``as_run``; both are read too."""
MANIFEST = "manifest.json"
PLANNER = "planner.onnx"
START = "start.onnx"
REFINE = "refine.onnx"
POLICY = "policy.onnx"
GOLDEN = "golden.bin"
LAW = "readings.npz"
"""How readings change in training (``tdmpc.deploy.plausibility``); older bundles have none."""
COMMITTED = "committed"
"""Graph input, ``Float32[D+1 A]`` in [-1, 1]: the action before the observation, and those until the plan begins."""
SINGLE_PRECISION = 1e-4
"""How far rounding may move a golden action where the bundle does not say, in half widths of the range."""
DECISION = ("action", "new_mean", "value")
"""Outputs of the planner's graph."""

Shapes = dict[str, tuple[int, ...]]
Arrays = dict[str, np.ndarray]


class BundleError(ValueError):
    """A bundle cannot be used as asked; the message says what to do."""


@dataclass(frozen=True)
class Sensor:
    """One sensor, and the graph input that takes it."""

    name: str
    """Where it stands in a nested observation: ``outer/inner``."""
    input: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Bundle:
    """What a controller needs to know of its bundle."""

    folder: Path
    manifest: Mapping[str, Any]
    """All of ``manifest.json``."""
    sensors: tuple[Sensor, ...]
    low: np.ndarray
    """Bounds of the actuators, ``Float32[A]``."""
    high: np.ndarray
    horizon: int
    iterations: int
    delay: int
    """Decisions between an observation and the action that is planned from it."""
    max_change: float | None
    """Of an action from the one before it, in half widths of the actuators' range; None is any."""
    noise_shapes: Shapes
    """Standard normal draws of a plan, by graph input; none where the noise is baked in."""

    @property
    def action_dim(self) -> int:
        """Number of actuators."""
        return len(self.low)

    @property
    def takes_committed(self) -> bool:
        """Whether a plan depends on actions that were decided before."""
        return self.delay > 0 or self.max_change is not None

    @property
    def control_period_ms(self) -> float | None:
        """Time between two decisions, where the environment tells it."""
        return self.manifest["environment"]["control_period_ms"]

    @property
    def precision(self) -> str:
        """``float32`` or ``int8``."""
        return self.manifest["precision"].replace("fp32", "float32")

    @property
    def model_id(self) -> str:
        """The same for bundles that differ in nothing but precision and noise."""
        parts = ("environment", "widths", "planner", "training")
        return hashlib.sha256(json.dumps([self.manifest[part] for part in parts]).encode()).hexdigest()[:12]

    @property
    def macs(self) -> int:
        """Multiply-adds that one plan runs; of the pruned widths in a bundle of format 1, which tells no others."""
        return sum(self.manifest.get("as_run", self.manifest)["macs"].values())

    def readings(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        """Its sensors by name, from an observation as agents get it: ``Float32[O]``, one sensor behind the other."""
        sizes = [math.prod(sensor.shape) for sensor in self.sensors]
        parts = zip(self.sensors, np.split(observation, np.cumsum(sizes)[:-1]), strict=True)
        return {sensor.name: part.reshape(sensor.shape) for sensor, part in parts}

    def interface(self, name: str) -> tuple[Shapes, Shapes]:
        """Inputs and outputs of one of its graphs, as far as the manifest tells them."""
        plan: tuple[int, ...] = (self.horizon, self.action_dim)
        action: Shapes = {"action": (self.action_dim,)}
        readings = {sensor.input: sensor.shape for sensor in self.sensors}
        policy, samples = (self.noise_shapes.get(name, ()) for name in ("noise_policy", "noise_samples"))
        state: Shapes = {"mean": plan, "std": plan}
        planned: Shapes = {**action, "new_mean": plan, "value": ()}
        known: Shapes = {**readings, "previous_mean": plan}
        if self.takes_committed:
            known[COMMITTED] = (self.delay + 1, self.action_dim)
        if self.max_change is not None:
            state["before"] = (self.action_dim,)
        return {
            PLANNER: ({**known, **self.noise_shapes}, planned),
            START: ({**known, "noise_policy": policy}, state),
            REFINE: ({**state, "noise": samples[1:]}, {**planned, "new_std": plan}),
            POLICY: (readings, action),
        }[name]

    def file(self, name: str) -> Path:
        """The path of one of its files, checked.

        Raises:
            BundleError: it is not part of the bundle, is missing, or is not the one that was exported.
        """
        known = self.manifest["files"]
        if name not in known:
            wants_parts = name in (START, REFINE)
            remedy = "export with --noise input to plan within deadlines" if wants_parts else "export it again"
            raise BundleError(f"{self.folder} holds no {name}: {remedy}")
        path = self.folder / name
        try:
            found = sha256(path)
        except OSError as error:
            raise BundleError(f"{path} cannot be read ({error.strerror}): copy the whole bundle again") from error
        if found != known[name]["sha256"]:
            raise BundleError(
                f"{path} is not the file that was exported: its hash is {found[:12]}..., the manifest says "
                f"{known[name]['sha256'][:12]}...: copy the bundle again"
            )
        return path

    @property
    def golden_tolerances(self) -> Iterator[tuple[float, float]]:
        """How far rounding may move each golden plan: its action, in half widths of the range, and its value."""
        layout = self.manifest["golden"]
        default = repeat({"action": SINGLE_PRECISION, "value": math.inf}, layout["plans"])
        return ((each["action"], each["value"]) for each in layout.get("tolerance", default))

    def golden(self) -> Iterator[tuple[Arrays, Arrays]]:
        """Inputs and outputs of plans, as they were when the bundle was exported."""
        layout = self.manifest["golden"]
        inputs, outputs = layout["inputs"], layout["outputs"]
        shapes = [*inputs.values(), *outputs.values()]
        sizes = list(map(math.prod, shapes))
        expected = 4 * layout["plans"] * sum(sizes)
        path = self.file(GOLDEN)
        if (found := path.stat().st_size) != expected:
            raise BundleError(f"{path} has {found:,} bytes, the manifest says {expected:,}: export the bundle again")
        for plan in np.frombuffer(path.read_bytes(), "<f4").reshape(layout["plans"], -1):
            parts = zip(np.split(plan, np.cumsum(sizes)[:-1]), shapes, strict=True)
            arrays = [part.reshape(shape) for part, shape in parts]
            given, made = arrays[: len(inputs)], arrays[len(inputs) :]
            yield dict(zip(inputs, given, strict=True)), dict(zip(outputs, made, strict=True))


def read(folder: Path | str) -> Bundle:
    """Read a bundle's manifest; its other files are checked when they are used.

    Raises:
        BundleError: there is no manifest, it is damaged, or a newer version of tdmpc wrote it.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise BundleError(
            f"{folder} is no controller bundle, it has no {MANIFEST}: make one by tdmpc export"
        ) from error
    except (OSError, ValueError, RecursionError) as error:  # no JSON is a ValueError too
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if not isinstance(version, int):
        raise _damaged(path, "it has no format_version")
    if version > FORMAT_VERSION:
        raise BundleError(
            f"{path} has format {version}, this version of tdmpc reads up to {FORMAT_VERSION}: update tdmpc"
        )
    if fault := next(schema.faults(manifest), None):
        raise _damaged(path, fault)
    described = _parse(folder, manifest)
    if fault := next(_contradictions(described), None):
        raise _damaged(path, fault)
    return described


def _contradictions(described: Bundle) -> Iterator[str]:
    """Parts of a manifest that do not fit each other."""
    golden, (inputs, outputs) = described.manifest["golden"], described.interface(PLANNER)
    if len(described.manifest["action"]) > 1:
        yield "action must be one item"
    if len(described.low) != len(described.high) or (described.low > described.high).any():
        yield "action.low must be as many numbers as action.high, and none above it"
    for side, shapes in (("inputs", inputs), ("outputs", outputs)):
        stored = {name: tuple(shape) for name, shape in golden[side].items()}
        for name in [*shapes, *stored]:
            if shapes.get(name) != stored.get(name):
                yield f"{name!r} has shape {shapes.get(name)}, but in golden.{side} it has {stored.get(name)}"
    if len(golden.get("tolerance", ())) not in (0, golden["plans"]):
        yield "golden.tolerance must have an item for each plan"


def _damaged(path: Path, what: str) -> BundleError:
    return BundleError(f"{path} is damaged ({what}): copy the bundle again, or export it again")


def _parse(folder: Path, manifest: Mapping[str, Any]) -> Bundle:
    action, planner = manifest["action"][0], manifest["planner"]
    return Bundle(
        folder=folder,
        manifest=manifest,
        sensors=tuple(Sensor(item["name"], item["input"], tuple(item["shape"])) for item in manifest["observation"]),
        low=np.array(action["low"], np.float32),
        high=np.array(action["high"], np.float32),
        horizon=planner["horizon"],
        iterations=planner["iterations"],
        delay=manifest["environment"].get("delay", 0),
        max_change=planner.get("max_change"),
        noise_shapes={name: tuple(shape) for name, shape in manifest["noise"]["inputs"].items()},
    )


def sha256(path: Path) -> str:
    """Hash of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def actuate(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """What the actuators take for an action in [-1, 1]; the graphs compute the same."""
    scaled = (high + low) / 2 + (high - low) / 2 * action
    return np.clip(scaled, low, high)


def deactuate(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The action in [-1, 1] for what the actuators take; 0 where there is no range."""
    half = (high - low) / 2
    return np.divide(action - (high + low) / 2, half, out=np.zeros_like(action), where=half > 0)
