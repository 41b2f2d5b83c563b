"""A bundle's planner as a LEAPP description (Isaac's ``leapp``), for runtimes that read those.

It says what a runtime must feed, in which order, at which frequency, and that a plan is fed back to the next. It is
JSON, which is YAML, too. A name has dots where a sensor's has slashes: LEAPP puts slashes between model and name.
"""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tdmpc.deploy import bundle
from tdmpc.deploy.backends import Graph

FILE = "leapp.yaml"
FORMAT = "1.3"
"""Of the description, as leapp 0.7 has it."""
MODEL = "planner"
JOINTS = {"rad": "state/joint/position", "m": "state/joint/position"}
JOINTS |= {f"{unit}/s": "state/joint/velocity" for unit in JOINTS}
DRIVES = {"rad": "target/joint/position", "m": "target/joint/position", "N m": "target/joint/torques"}
DRIVES |= {"N": "target/joint/effort", "rad/s": "target/joint/velocity", "m/s": "target/joint/velocity"}


def write(folder: Path, manifest: Mapping[str, Any], planner: Graph) -> None:
    """Write the description beside the planner."""
    (folder / FILE).write_text(json.dumps(describe(folder, manifest, planner), indent=1) + "\n")


def describe(folder: Path, manifest: Mapping[str, Any], planner: Graph) -> dict[str, Any]:
    """The description of a bundle whose planner lies in a folder."""
    content, period = (folder / bundle.PLANNER).read_bytes(), manifest["environment"]["control_period_ms"]
    sensors = {item["input"]: _told(item, JOINTS, manifest["pose"]) for item in manifest["observation"]}
    kinds = {name: {"kind": "noise/standard_normal"} for name in manifest["noise"]["inputs"]}
    kinds |= {**sensors, "action": _told(manifest["action"][0], DRIVES)}
    fed = [_name(name) for name in planner.shapes if name != "previous_mean"]
    return {
        "models": {
            MODEL: {
                "inputs": _ports(planner.shapes, kinds),
                "outputs": _ports(planner.outputs, kinds),
                "parameters": {
                    **{"model_path": bundle.PLANNER, "backend": "onnx"},
                    "md5sum": hashlib.md5(content, usedforsecurity=False).hexdigest(),
                    "sha256sum": hashlib.sha256(content).hexdigest(),
                },
            }
        },
        "pipeline": {
            "inputs": {MODEL: fed},
            "outputs": {MODEL: [_name(name) for name in planner.outputs]},
            "data_flow": {},
            "feedback_flow": {f"{MODEL}/new_mean": [f"{MODEL}/previous_mean"]},
            "configs": {"delay_decisions": manifest["environment"]["delay"]}
            | ({"frequency": 1000 / period} if period else {}),
        },
        "system information": {"leapp config version": FORMAT, "python version": platform.python_version()},
    }


def _ports(shapes: Mapping[str, Iterable[int]], told: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"name": _name(name), "dtype": "float32", "shape": list(shape), **told.get(name, {})}
        for name, shape in shapes.items()
    ]


def _told(item: Mapping[str, Any], kinds: Mapping[str, str], joints: Iterable[str] | None = None) -> dict[str, Any]:
    """Names and units of the numbers, and the kind where all are of one, of joints if those are told."""
    names, units = item.get("names"), item.get("units") or []
    if not names:
        return {}
    told: dict[str, Any] = {"element_names": [names], "units": units}
    found = {kinds.get(unit) for unit in units}
    if len(found) == 1 and None not in found and (joints is None or set(names) <= set(joints)):
        told["kind"] = found.pop()
    return told


def _name(name: str) -> str:
    return name.replace("/", ".")
