"""A controller bundle as a robot reads it: a manifest, and files whose hashes it holds.

The manifest is JSON that anything can read; ``deploy.export`` writes it, ``docs/deployment.md`` describes it.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
PLANNER = "planner.onnx"
START = "start.onnx"
REFINE = "refine.onnx"
POLICY = "policy.onnx"
GOLDEN = "golden.bin"

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
    noise_shapes: Shapes
    """Standard normal draws of a plan, by graph input; none where the noise is baked in."""

    @property
    def action_dim(self) -> int:
        """Number of actuators."""
        return len(self.low)

    @property
    def control_period_ms(self) -> float | None:
        """Time between two decisions, where the environment tells it."""
        return self.manifest["environment"]["control_period_ms"]

    @property
    def precision(self) -> str:
        """``fp32`` or ``int8``."""
        return self.manifest["precision"]

    @property
    def model_id(self) -> str:
        """The same for bundles that differ in nothing but precision and noise."""
        parts = ("environment", "widths", "planner", "training")
        return hashlib.sha256(json.dumps([self.manifest[part] for part in parts]).encode()).hexdigest()[:12]

    @property
    def macs(self) -> int:
        """Multiply-adds of one plan."""
        return sum(self.manifest["macs"].values())

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

    def golden(self) -> Iterator[tuple[Arrays, Arrays]]:
        """Inputs and outputs of consecutive plans, as they were when the bundle was exported."""
        layout = self.manifest["golden"]
        content = np.frombuffer(self.file(GOLDEN).read_bytes(), "<f4")
        sides: list[Shapes] = [layout["inputs"], layout["outputs"]]
        position = 0
        for _ in range(layout["plans"]):
            case: list[Arrays] = []
            for side in sides:
                arrays = {}
                for name, shape in side.items():
                    size = math.prod(shape)
                    arrays[name] = content[position : position + size].reshape(shape)
                    position += size
                case.append(arrays)
            yield case[0], case[1]


def read(folder: Path | str) -> Bundle:
    """Read a bundle's manifest; its other files are checked when they are used.

    Raises:
        BundleError: there is no manifest, it is damaged, or a newer version of tdmpc wrote it.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        version = manifest["format_version"]
        if version <= FORMAT_VERSION:
            return _parse(folder, manifest)
    except FileNotFoundError as error:
        raise BundleError(
            f"{folder} is no controller bundle, it has no {MANIFEST}: make one by tdmpc export"
        ) from error
    except (OSError, KeyError, TypeError, ValueError) as error:  # no JSON is a ValueError too
        raise BundleError(
            f"{path} is damaged ({type(error).__name__}: {error}): copy the bundle again, or export it again"
        ) from error
    raise BundleError(f"{path} has format {version}, this version of tdmpc reads up to {FORMAT_VERSION}: update tdmpc")


def _parse(folder: Path, manifest: Mapping[str, Any]) -> Bundle:
    (action,) = manifest["action"]
    planner = manifest["planner"]
    return Bundle(
        folder=folder,
        manifest=manifest,
        sensors=tuple(Sensor(item["name"], item["input"], tuple(item["shape"])) for item in manifest["observation"]),
        low=np.array(action["low"], np.float32),
        high=np.array(action["high"], np.float32),
        horizon=planner["horizon"],
        iterations=planner["iterations"],
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
