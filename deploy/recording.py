"""What a controller decided: kept in a ring while it runs, written as MCAP when it ends, read for ``replay``.

Foxglove shows the file without a plugin: messages are JSON with a schema. Sensors are nested as the observation is.

- ``/sensors``: each sensor's reading, flat; where an observation was faulty, the last good one.
- ``/action``: what was ``given`` to the actuators, and what was ``due`` before any limit.
- ``/plan``: the newest plan: the ``decision`` that it begins with, ``actions`` in [-1, 1], ``value``, ``iterations``.
- ``/decision``: its number, the one before its ``episode``, ``late``, ``faults``, ``time`` in
  seconds, ``took_ms``, ``age_ms``; in ``planning`` all that a plan begun then was made of.
"""

import json
import logging
import math
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from tdmpc.deploy import bundle
from tdmpc.deploy.backends import Graph
from tdmpc.deploy.bundle import Arrays, Bundle, BundleError
from tdmpc.deploy.controller import Controller
from tdmpc.deploy.faults import Fault

try:
    from mcap.exceptions import McapError
    from mcap.reader import make_reader
    from mcap.writer import Writer
except ImportError as error:
    raise ImportError("records of decisions need mcap: pip install 'tdmpc[record]'") from error

log = logging.getLogger(__name__)

KEPT = 30_000
"""Decisions in the ring: ten minutes at 50 a second."""
PROFILE = "tdmpc"
NUMBERS = {"type": "array", "items": {"type": "number"}}
Message = dict[str, Any]


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
        self._ring = Ring(described, kept)
        super().__init__(described, graphs, **settings)
        facts = {"deadline": str(settings.get("deadline_ms") is not None), "model": described.model_id}
        self._write = weakref.finalize(self, write, _unused(Path(path)), self._ring, described, facts)

    def act(
        self, observation: Any, *, measured_at: float | None = None, released_at: float | None = None
    ) -> np.ndarray:
        """As ``Controller.act``."""
        entered, late, faults = self._clock(), self.counters.late, tuple(self.counters.faults.values())
        ring = self._ring
        ring.turn()
        try:
            given = super().act(observation, measured_at=measured_at, released_at=released_at)
            ring.put(given=given)
            return given
        finally:
            now, newest = self._clock(), self._agenda.newest
            if newest is not None:
                plan = {"plan": newest.decision, "mean": newest.mean, "value": newest.value}
                ring.put(**plan, iterations=newest.iterations, first=newest.action)
            ring.put(
                time=time.time_ns(),
                decision=self._decision,
                episode=self._began,
                late=self.counters.late - late,
                faults=[now - before for now, before in zip(self.counters.faults.values(), faults, strict=True)],
                took=now - entered,
                age=math.nan if measured_at is None else entered - measured_at,
                **(self._readings or {}),
            )

    def close(self) -> None:
        """End the planner's thread, if there is one, and write the file."""
        super().close()
        self._write()

    def _inputs(self) -> Arrays:
        inputs, stream = super()._inputs(), self._random.bit_generator.state
        self._ring.put(**inputs, planned=True, stream=_words(stream))
        return inputs

    def _applied(self, due: np.ndarray, *, faulty: bool) -> np.ndarray:
        self._ring.put(due=due)
        return super()._applied(due, faulty=faulty)


class Ring:
    """The last decisions, a column for each part."""

    def __init__(self, described: Bundle, kept: int) -> None:
        plan, action = (described.horizon, described.action_dim), (described.action_dim,)
        singles = {
            "time": np.int64,
            "decision": np.int64,
            "episode": np.int64,
            "plan": np.int64,
            "iterations": np.int64,
        }
        flags = {"late": np.bool_, "planned": np.bool_}
        reals = {"took": np.float64, "age": np.float64, "value": np.float64}
        columns = {name: ((), kind) for name, kind in {**singles, **flags, **reals}.items()}
        inputs, _ = described.interface(bundle.PLANNER)
        noise = described.noise_shapes
        columns |= {name: (shape, np.float32) for name, shape in inputs.items() if name not in noise}
        columns |= {"faults": ((len(Fault),), np.bool_), "stream": ((10,), np.uint32)}
        columns |= {"due": (action, np.float32), "given": (action, np.float32), "first": (action, np.float32)}
        columns |= {"mean": (plan, np.float32)}
        self.columns = {name: np.zeros((kept, *shape), kind) for name, (shape, kind) in columns.items()}
        self.turns, self.kept = 0, kept

    def turn(self) -> None:
        """Go on to the next row; what was in it is forgotten."""
        self._row = self.turns % self.kept
        self.turns += 1
        self.put(planned=False, plan=0)

    def put(self, **values: Any) -> None:
        """Fill columns of the row."""
        for name, value in values.items():
            self.columns[name][self._row] = value

    def rows(self) -> Iterator[dict[str, Any]]:
        """From the oldest to the newest."""
        first = max(self.turns - self.kept, 0)
        for turn in range(first, self.turns):
            yield {name: column[turn % self.kept].tolist() for name, column in self.columns.items()}


def write(path: Path, ring: Ring, described: Bundle, facts: Mapping[str, str]) -> None:
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
        for row in ring.rows():
            for topic, message in _messages(row, described).items():
                text = json.dumps(message, allow_nan=False).encode()
                writer.add_message(channels[topic], row["time"], text, row["time"], row["decision"])
        writer.finish()
    unfinished.replace(path)
    log.info("%s holds the last %d decisions", path, min(ring.turns, ring.kept))


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


def columns(path: Path | str, described: Bundle) -> dict[str, np.ndarray]:
    """A record as a table: each sensor under its name, ``action`` as given, ``time`` in seconds, ``episode``.

    Raises:
        BundleError: as ``read``.
    """
    _, rows = read(path)
    sensors = {each.name: [reading(row["/sensors"], each.name) for row in rows] for each in described.sensors}
    decisions = {name: [row["/decision"][name] for row in rows] for name in ("time", "episode")}
    table = {**sensors, "action": [row["/action"]["given"] for row in rows], **decisions}
    return {name: np.array(values) for name, values in table.items()}


def _messages(row: Mapping[str, Any], described: Bundle) -> dict[str, Message]:
    sensors: Message = {}
    for sensor in described.sensors:
        *outer, inner = sensor.name.split("/")
        part = reduce(lambda part, key: part.setdefault(key, {}), outer, sensors)
        part[inner] = np.ravel(row[sensor.input]).tolist()
    decision: Message = {
        **{name: row[name] for name in ("decision", "episode", "late")},
        "faults": [fault.value for fault, found in zip(Fault, row["faults"], strict=True) if found],
        "time": row["time"] / 1e9,
        "took_ms": 1000 * row["took"],
        "age_ms": None if math.isnan(row["age"]) else 1000 * row["age"],
    }
    if row["planned"]:
        parts = ("stream", "previous_mean", bundle.COMMITTED)
        decision["planning"] = {name: row[name] for name in parts if name in row}
    messages = {"/sensors": sensors, "/action": {"given": row["given"], "due": row["due"]}, "/decision": decision}
    if row["plan"]:
        plan = {"decision": row["plan"], "first": row["first"], "actions": row["mean"]}
        value = row["value"] if math.isfinite(row["value"]) else None
        messages["/plan"] = {**plan, "value": value, "iterations": row["iterations"]}
    return messages


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


def _words(state: Mapping[str, Any]) -> np.ndarray:
    """The state of numpy's PCG64 as words of 32 bits, ``UInt32[10]``, the lowest first."""
    numbers = (
        (state["state"]["state"], 16),
        (state["state"]["inc"], 16),
        (state["has_uint32"], 4),
        (state["uinteger"], 4),
    )
    return np.frombuffer(b"".join(number.to_bytes(size, "little") for number, size in numbers), "<u4")


def generator(words: Sequence[int]) -> np.random.Generator:
    """The random stream that ``_words`` was taken of."""
    state, inc = (sum(int(word) << 32 * place for place, word in enumerate(part)) for part in (words[:4], words[4:8]))
    bits = np.random.PCG64()
    bits.state = {
        "bit_generator": "PCG64",
        "state": {"state": state, "inc": inc},
        "has_uint32": int(words[8]),
        "uinteger": int(words[9]),
    }
    return np.random.Generator(bits)


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
