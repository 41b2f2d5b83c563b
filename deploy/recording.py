"""What a controller decided: kept in a ring while it runs, written as MCAP when it ends, read for ``replay``.

Foxglove shows the file without a plugin: messages are JSON with a schema. Sensors are nested as the observation is.

- ``/sensors``: each sensor's reading, flat; where an observation was faulty, the last good one.
- ``/action``: what was ``given`` to the actuators, and what was ``due`` before any limit.
- ``/plan``: the newest plan: the ``decision`` that it begins with, ``actions`` in [-1, 1], ``value``, ``iterations``;
  ``earlier`` ones that were ready within the same decision.
- ``/decision``: its number, the one before its ``episode``, ``late``, ``faults``, ``time`` in
  seconds, ``took_ms``, ``age_ms``; in ``planning`` all that a plan begun then was made of.
"""

import itertools
import json
import logging
import math
import time
import weakref
from collections import deque
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tdmpc.deploy import bundle
from tdmpc.deploy.backends import Graph
from tdmpc.deploy.bundle import Arrays, Bundle, BundleError
from tdmpc.deploy.controller import Controller
from tdmpc.deploy.faults import ControlFault, Fault
from tdmpc.deploy.plan_runner import Made

try:
    from mcap.exceptions import McapError
    from mcap.reader import make_reader
    from mcap.writer import Writer
except ImportError as error:
    raise ImportError("records of decisions need mcap: pip install 'tdmpc[record]'") from error

log = logging.getLogger(__name__)

KEPT = 30_000
"""Decisions in the ring: ten minutes at 50 a second."""
STATES = 100
"""States of the random stream in a full ring, at least."""
PROFILE = "tdmpc"
NUMBERS = {"type": "array", "items": {"type": "number"}}
Message = dict[str, Any]
Plan = tuple[int, int, np.ndarray, np.ndarray, float]
"""The fields of ``Made``."""


class Row(NamedTuple):
    """One decision, as the controller left it: what a decision makes is never changed, so nothing is copied."""

    time: int
    """In nanoseconds since 1970."""
    decision: int
    episode: int
    clock: tuple[float, float, float | None]
    """When it began and ended, and when its observation was measured, in seconds."""
    counted: tuple[tuple[int, ...], tuple[int, ...]]
    """Before and after: decisions that were late, and faults of each kind."""
    readings: Arrays | None
    planned: Arrays | None
    """Inputs of a plan that was begun then."""
    stream: Mapping[str, Any] | None
    """State of the random stream before that plan, for one in many: each draws on where the one before ended."""
    actions: tuple[np.ndarray, np.ndarray]
    """Given, and due before any limit."""
    plan: Plan | None
    """The newest."""
    earlier: tuple[Plan, ...]
    """Taken up in this decision, too, before the newest one."""


class Recording(Controller):
    """A controller that keeps its last decisions, and writes them when it is closed or its program ends."""

    def __init__(
        self, described: Bundle, graphs: Mapping[str, Graph], *, path: Path | str, kept: int = KEPT, **settings: Any
    ) -> None:
        """Control and record.

        Args:
            described: the bundle.
            graphs: by file name, as ``Controller`` takes them.
            path: MCAP file to write; one of another name where it exists.
            kept: decisions in the ring, the last ones.
            settings: as ``Controller`` takes them.
        """
        self._ring: deque[tuple[Any, ...]] = deque(maxlen=kept)
        self._every, self._plans = max(kept // STATES, 1), 0
        self._due = np.zeros(described.action_dim, np.float32)
        super().__init__(described, graphs, **settings)
        facts = {"deadline": str(settings.get("deadline_ms") is not None), "model": described.model_id}
        self._write = weakref.finalize(self, write, _unused(Path(path)), self._ring, described, facts)

    def act(
        self, observation: Any, *, measured_at: float | None = None, released_at: float | None = None
    ) -> np.ndarray:
        """As ``Controller.act``."""
        entered, counted = self._clock(), self._counted()
        self._planned: Arrays | None = None
        self._stream: Mapping[str, Any] | None = None
        self._taken: list[Made] = []
        try:
            given = super().act(observation, measured_at=measured_at, released_at=released_at)
        except ControlFault:
            self._keep(entered, measured_at, counted)
            raise
        self._keep(entered, measured_at, counted)
        return given

    def reset(self, seed: int | None = None) -> None:
        """As ``Controller.reset``."""
        self._plans = 0
        super().reset(seed)

    def close(self) -> None:
        """End the planner's thread, if there is one, and write the file."""
        super().close()
        self._write()

    def _keep(self, entered: float, measured_at: float | None, before: tuple[int, ...]) -> None:
        """Add this decision, as a plain tuple: the garbage collector leaves one of numbers and arrays alone."""
        newest, counted = self._agenda.newest, self._counted()
        if counted != before:
            self._plans = 0  # after a fault nobody knows what was drawn
        self._ring.append(
            (
                time.time_ns(),
                self._decision,
                self._began,
                (entered, self._clock(), measured_at),
                (before, counted),
                self._readings,
                self._planned,
                self._stream,
                (self._action, self._due),
                None if newest is None else tuple(newest),
                tuple(map(tuple, self._taken[:-1])),
            )
        )

    def _counted(self) -> tuple[int, ...]:
        return (self.counters.late, *self.counters.faults.values())

    def _take_up(self) -> None:
        before = self._agenda.newest
        super()._take_up()
        if (newest := self._agenda.newest) is not None and newest is not before:
            self._taken.append(newest)

    def _inputs(self) -> Arrays:
        if self._plans % self._every == 0:
            self._stream = self._random.bit_generator.state
        self._plans += 1
        self._planned = super()._inputs()
        return self._planned

    def _applied(self, due: np.ndarray, *, faulty: bool) -> np.ndarray:
        self._due = due
        return super()._applied(due, faulty=faulty)


def write(path: Path, ring: deque[tuple[Any, ...]], described: Bundle, facts: Mapping[str, str]) -> None:
    """Write a ring as an MCAP file, whole or not at all."""
    unfinished = path.with_name(f".{path.name}.tmp")
    with unfinished.open("wb") as file:
        writer = Writer(file)
        writer.start(profile=PROFILE, library="tdmpc")
        writer.add_metadata(PROFILE, dict(facts))
        channels: dict[str, int] = {}
        for topic, schema in _schemas(described).items():
            kind = writer.register_schema(f"tdmpc{topic}", "jsonschema", json.dumps(schema).encode())
            channels[topic] = writer.register_channel(topic, "json", kind)
        for row in itertools.starmap(Row, ring):
            for topic, message in _messages(row, described).items():
                text = json.dumps(message, allow_nan=False).encode()
                writer.add_message(channels[topic], row.time, text, row.time, row.decision)
        writer.finish()
    unfinished.replace(path)
    log.info("%s holds the last %d decisions", path, len(ring))


def read(path: Path | str) -> tuple[dict[str, str], list[dict[str, Message]]]:
    """Facts of a record, and of each decision its messages by topic, from the oldest to the newest.

    Raises:
        BundleError: this is no record, or it is damaged.
    """
    decisions: dict[int, dict[str, Message]] = {}
    try:
        with Path(path).open("rb") as file:
            reader = make_reader(file, validate_crcs=True)
            facts = next((found.metadata for found in reader.iter_metadata() if found.name == PROFILE), None)
            for _, channel, message in reader.iter_messages():
                decisions.setdefault(message.sequence, {})[channel.topic] = json.loads(message.data)
    except (OSError, McapError, ValueError) as error:
        raise BundleError(
            f"{path} is no record of a controller, or damaged ({type(error).__name__}: {error}): "
            "Controller.load(..., record=FILE) writes one when it is closed"
        ) from error
    if facts is None:
        raise BundleError(f"{path} was not recorded by a controller of tdmpc: it has no metadata {PROFILE!r}")
    return facts, [decisions[number] for number in sorted(decisions)]


def reading(message: Message, name: str) -> Any:
    """A sensor's part of a message of ``/sensors``."""
    return reduce(lambda part, key: part[key], name.split("/"), message)


def _messages(row: Row, described: Bundle) -> dict[str, Message]:
    sensors: Message = {}
    nothing = {sensor.input: np.zeros(sensor.shape) for sensor in described.sensors}
    for sensor in described.sensors:
        *outer, inner = sensor.name.split("/")
        part = reduce(lambda part, key: part.setdefault(key, {}), outer, sensors)
        part[inner] = (row.readings or nothing)[sensor.input].ravel().tolist()
    begun, ended, measured = row.clock
    late, *faults = (after > before for before, after in zip(*row.counted, strict=True))
    decision: Message = {
        **{"decision": row.decision, "episode": row.episode, "late": late},
        "faults": [fault.value for fault, found in zip(Fault, faults, strict=True) if found],
        "time": row.time / 1e9,
        "took_ms": 1000 * (ended - begun),
        "age_ms": None if measured is None else 1000 * (begun - measured),
    }
    if row.planned is not None:
        parts = ("previous_mean", bundle.COMMITTED)
        decision["planning"] = {name: row.planned[name].tolist() for name in parts if name in row.planned}
    if row.stream is not None:
        decision["planning"]["stream"] = _words(row.stream)
    given, due = (action.tolist() for action in row.actions)
    messages = {"/sensors": sensors, "/action": {"given": given, "due": due}, "/decision": decision}
    if row.plan is not None:
        messages["/plan"] = {**_plan(row.plan), "earlier": [_plan(each) for each in row.earlier]}
    return messages


def _plan(plan: Plan) -> Message:
    made = Made(*plan)
    value = float(made.value) if math.isfinite(made.value) else None
    told = {"decision": made.decision, "first": made.action.tolist(), "actions": made.mean.tolist()}
    return {**told, "value": value, "iterations": made.iterations}


def _schemas(described: Bundle) -> dict[str, Message]:
    """JSON schemas by topic."""
    sensors: Message = {"type": "object", "properties": {}}
    for sensor in described.sensors:
        *outer, inner = sensor.name.split("/")
        part = sensors
        for key in outer:
            part = part["properties"].setdefault(key, {"type": "object", "properties": {}})
        part["properties"][inner] = NUMBERS
    number, whole, real = {"type": "number"}, {"type": "integer"}, {"type": ["number", "null"]}
    matrix = {"type": "array", "items": NUMBERS}
    plan = {"decision": whole, "first": NUMBERS, "actions": matrix, "value": real, "iterations": whole}
    plan["earlier"] = {"type": "array", "items": {"type": "object", "properties": dict(plan)}}
    planning = {"stream": NUMBERS, "previous_mean": matrix, bundle.COMMITTED: matrix}
    decision = {
        **{"decision": whole, "episode": whole, "late": {"type": "boolean"}},
        "faults": {"type": "array", "items": {"type": "string"}},
        **{"time": number, "took_ms": number, "age_ms": real},
        "planning": {"type": "object", "properties": planning},
    }
    parts = {"/action": {"given": NUMBERS, "due": NUMBERS}, "/plan": plan, "/decision": decision}
    return {
        "/sensors": sensors,
        **{topic: {"type": "object", "properties": properties} for topic, properties in parts.items()},
    }


def _words(state: Mapping[str, Any]) -> list[int]:
    """The state of numpy's PCG64 as ten words of 32 bits, the lowest first: JSON's numbers hold no more than 53."""
    numbers = (*(state["state"][name] for name in ("state", "inc")), state["has_uint32"], state["uinteger"])
    sizes = zip(numbers, (16, 16, 4, 4), strict=True)
    return np.frombuffer(b"".join(number.to_bytes(size, "little") for number, size in sizes), "<u4").tolist()


def _unused(path: Path) -> Path:
    """The path, or where it is taken ``flight-2.mcap``, ``flight-3.mcap``, ...; its folder has to be there.

    Raises:
        BundleError: there is no such folder.
    """
    if not path.parent.is_dir():
        raise BundleError(f"record={str(path)!r}: there is no folder {path.parent}. Make it, or choose another place")
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free
