"""Laws of records: Foxglove's own reader reads them, they hold what happened, and a replay agrees bit for bit."""

import dataclasses
import json
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.reader import make_reader

from tdmpc.deploy import bundle, logs
from tdmpc.deploy.bundle import Bundle, BundleError
from tdmpc.deploy.recording import Recording, Row, read, reading
from tdmpc.deploy.replay import generator, replay
from tests.deploy.conftest import HORIZON, Scripted

SIZE = {"shape": [2], "low": [-1.0, 0.5], "high": [3.0, 2.5]}


def planner(inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Another plan for every other input: a replay that changes one of them differs."""
    mean = np.tanh(np.float32(sum(values.mean() for values in inputs.values())) + inputs["previous_mean"])
    action = bundle.actuate(mean[0], np.float32(SIZE["low"]), np.float32(SIZE["high"]))
    return {"action": action, "new_mean": mean, "value": mean.sum()}


@pytest.fixture
def recorded(described: Bundle, tmp_path: Path) -> Callable[..., Recording]:
    """``recorded(kept=5)``: a controller that records into flight.mcap."""

    def make(**settings: Any) -> Recording:
        return Recording(described, {bundle.PLANNER: Scripted(planner)}, path=tmp_path / "flight.mcap", **settings)

    return make


def play(controller: Recording, decisions: int, *, faulty: int | None = None) -> list[np.ndarray]:
    """Act on readings that change; at one decision a sensor is missing."""
    given = []
    for number in range(decisions):
        height = np.inf if number == faulty else 1.5 + number
        given.append(controller.act({"joint": np.array([0.1 * number, -0.2]), "body": {"height": height}}))
    return given


@pytest.fixture(autouse=True)
def same_planner(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle of these tests has no graphs; a replay gets the same planner as the controller."""
    monkeypatch.setattr("tdmpc.deploy.replay.contract.load", lambda *_: Scripted(planner))


def test_a_record_is_read_by_its_format_s_own_reader(recorded: Callable[..., Recording], tmp_path: Path) -> None:
    """Each topic has a JSON schema whose properties are those of its messages, at the times of the decisions."""
    controller = recorded()
    play(controller, 4)
    controller.close()
    with (tmp_path / "flight.mcap").open("rb") as file:
        found = list(make_reader(file, validate_crcs=True).iter_messages())
    assert {channel.topic for _, channel, _ in found} == {"/sensors", "/action", "/plan", "/decision"}
    for schema, channel, message in found:
        assert schema is not None and (schema.encoding, channel.message_encoding) == ("jsonschema", "json")
        assert set(json.loads(message.data)) <= set(json.loads(schema.data)["properties"])
    times = [message.log_time for _, channel, message in found if channel.topic == "/decision"]
    assert times == sorted(times) and len(times) == 4


def test_a_record_holds_what_happened(recorded: Callable[..., Recording], tmp_path: Path) -> None:
    """Sensors by their nested names, actions as given, plans, values, faults and lateness stand in it, exactly."""
    controller = recorded(on_fault="hold")
    given = play(controller, 4, faulty=2)
    controller.close()
    _, rows = read(tmp_path / "flight.mcap")
    assert [row["/action"]["given"] for row in rows] == [action.tolist() for action in given]
    assert [row["/decision"]["faults"] for row in rows] == [[], [], ["nonfinite"], []]
    assert [reading(row["/sensors"], "body/height") for row in rows] == [[1.5], [2.5], [2.5], [4.5]]
    plan = rows[-1]["/plan"]
    assert plan["decision"] == 4 and np.array_equal(np.float32(plan["actions"]), controller.plan)
    assert plan["value"] == controller.value
    assert [row["/decision"]["late"] for row in rows] == [False] * 4
    table = logs.read(tmp_path / "flight.mcap", controller.bundle)
    assert np.array_equal(table["action"], given) and np.array_equal(table["body/height"][:, 0], [1.5, 2.5, 2.5, 4.5])
    assert table["joint"].shape == (4, 2) and (np.diff(table["time"]) >= 0).all() and set(table["episode"]) == {0}


@pytest.mark.parametrize("kept", [30, 5, 400])
def test_a_replay_agrees_bit_for_bit(
    recorded: Callable[..., Recording], described: Bundle, tmp_path: Path, kept: int
) -> None:
    """All plans that a record holds come out again, from a full ring or with few states of the noise, over faults and
    episodes."""
    controller = recorded(kept=kept)
    play(controller, 7, faulty=3)
    controller.reset(seed=5)
    play(controller, 5, faulty=1)
    controller.close()
    found = replay(tmp_path / "flight.mcap", described.folder)
    assert found.decisions == min(kept, 12) and not (found.plans_differ or found.actions_differ)
    assert found.plans == (4 if kept == 5 else 10) and found.actions >= found.plans


class Slow(Future[Any]):
    """Done only when it has been asked twice before."""

    asked = 0

    def done(self) -> bool:
        self.asked += 1
        return self.asked > 2


class EveryOther(Executor):
    """A thread whose every other plan is ready while the next decision is under way, and the next plan at once."""

    jobs = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.jobs += 1
        future = Slow() if self.jobs % 2 else Future[Any]()
        future.set_result(fn())
        return future


def test_two_plans_of_one_decision_are_both_replayed(
    described: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that another one replaces within the same decision was due before it, and is in the record."""
    late = dataclasses.replace(described, delay=1)
    monkeypatch.setattr("tdmpc.deploy.replay.bundle.read", lambda _: late)
    graphs = {bundle.PLANNER: Scripted(planner)}
    controller = Recording(late, graphs, path=tmp_path / "flight.mcap", pipelined=True, executor=EveryOther())
    play(controller, 8)
    controller.close()
    assert any(Row(*row).earlier for row in controller._ring)
    found = replay(tmp_path / "flight.mcap", described.folder)
    assert found.plans == 8 and found.actions == 8 and not (found.plans_differ or found.actions_differ)


@pytest.mark.parametrize("part", ["joint", "given", "stream", "mean"])
def test_a_replay_finds_what_is_otherwise(
    recorded: Callable[..., Recording], described: Bundle, tmp_path: Path, part: str
) -> None:
    """A sensor, a random stream, a plan or an action that was another one makes the replay differ there."""
    controller = recorded(kept=5)
    play(controller, 4)
    row = Row(*controller._ring[2])
    if part == "stream":
        state = row.stream or {}
        row = row._replace(stream={**state, "state": {**state["state"], "state": 1}})
    else:
        arrays = {**(row.planned or {}), "given": row.actions[1], "mean": row.plan[3] if row.plan else None}
        arrays[{"joint": "observation/joint"}.get(part, part)] += 1
    controller._ring[2] = tuple(row)
    controller.close()
    found = replay(tmp_path / "flight.mcap", described.folder)
    assert (found.actions_differ if part == "given" else found.plans_differ)[0] == 3


def test_a_ring_is_bounded(recorded: Callable[..., Recording], tmp_path: Path) -> None:
    """Of more decisions than it keeps, the last ones are written, and a file that is there stays."""
    for first in ("flight.mcap", "flight-2.mcap"):
        controller = recorded(kept=3)
        play(controller, 8)
        controller.close()
        _, rows = read(tmp_path / first)
        assert [row["/decision"]["decision"] for row in rows] == [6, 7, 8]


def test_a_record_is_written_at_the_end_of_a_program(recorded: Callable[..., Recording], tmp_path: Path) -> None:
    """A controller that nobody closes writes its record when it goes."""
    controller = recorded()
    play(controller, 2)
    assert not (tmp_path / "flight.mcap").exists()
    del controller
    assert len(read(tmp_path / "flight.mcap")[1]) == 2


def test_random_streams_go_on_where_they_were() -> None:
    """A stream that was taken down draws what the first one goes on to draw, also in the middle of a word."""
    from tdmpc.deploy.recording import _words

    random = np.random.default_rng(3)
    random.standard_normal(7, np.float32)
    random.integers(0, 5, 1, dtype=np.uint32)
    state = random.bit_generator.state
    again = generator(_words(state))
    assert np.array_equal(
        random.standard_normal(HORIZON * 50, np.float32), again.standard_normal(HORIZON * 50, np.float32)
    )


def test_what_is_no_record_is_one_line(described: Bundle, tmp_path: Path, recorded: Callable[..., Recording]) -> None:
    """A missing file, another file, a cut one, and a record of another bundle are refused by name."""
    controller = recorded()
    play(controller, 3)
    controller.close()
    whole = (tmp_path / "flight.mcap").read_bytes()
    for name, content in {"text": b"not a record", "cut": whole[: len(whole) // 2]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BundleError, match=f"{name} is no record of a controller, or damaged"):
            replay(tmp_path / name, described.folder)
    with pytest.raises(BundleError, match="missing is no record"):
        replay(tmp_path / "missing", described.folder)
    with pytest.raises(BundleError, match="no folder"):
        Recording(described, {bundle.PLANNER: Scripted(planner)}, path=tmp_path / "nowhere" / "flight.mcap")
