"""Laws of safety: faults are told at once, end where they must, and plans come in gently after them."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tdmpc.deploy import bundle
from tdmpc.deploy.bundle import Bundle, BundleError
from tdmpc.deploy.controller import Controller
from tdmpc.deploy.faults import ControlFault, Fault
from tdmpc.deploy.safety import LONGEST_S, Safety
from tests.deploy.conftest import MANIFEST, Scripted, planned
from tests.deploy.test_plan_runner import Inline

GOOD = {"joint": [0.1, -0.2], "body": {"height": 1.5}}
PLANNED, NOUGHT, PARKED = [2.0, 1.0], [0.0, 0.5], (1.0, 2.0)


def moved(turn: int) -> dict[str, Any]:
    return {"joint": [0.1, turn / 64], "body": {"height": 1.5}}


def make(folder: Path, planner: Any = None, *, delay: int = 0, **settings: Any) -> Controller:
    """A controller of a bundle that knows the range of its joints, and that they never stand still."""
    manifest = json.loads(json.dumps(MANIFEST))
    manifest["observation"][0] |= {"seen_low": [-1.0, -1.0], "seen_high": [1.0, 1.0], "repeats": False}
    manifest["environment"]["delay"] = delay
    if delay:
        manifest["golden"]["inputs"]["committed"] = [delay + 1, 2]
    (folder / bundle.MANIFEST).write_text(json.dumps(manifest))
    return Controller(bundle.read(folder), {bundle.PLANNER: planner or Scripted(lambda _: planned())}, **settings)


BAD: dict[str, tuple[Callable[[int], Any], str]] = {
    "renamed": (lambda turn: {"joints": [0, 0], "body": {"height": 1}}, "no sensor 'joint'"),
    "stuck": (lambda turn: moved(7), "sensor 'joint' has given the same"),
    "far": (lambda turn: {"joint": [0, 1e9], "body": {"height": 1}}, r"'joint', number 1, reads 1e\+09"),
}


@pytest.mark.parametrize(("sensed", "text"), BAD.values(), ids=BAD)
def test_a_fault_is_told_at_once_and_ends_in_the_safe_action(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sensed: Callable[[int], Any], text: str
) -> None:
    """A renamed sensor, one that is stuck and a reading of 1e9 are logged by name in the first decision that has them;
    the last action is held for ``hold_ms``, two decisions of 20 ms, and then the safe action follows.
    """
    safety = Safety(hold_ms=40, on_hold_timeout=PARKED, range_margin=0.5, stuck_ms=20)
    controller, actions = make(tmp_path, safety=safety, clock=lambda: 5.0), []
    for turn in range(7):
        controller.act(moved(turn))
    controller.act(sensed(0))
    begun = sum(controller.counters.faults.values())
    assert begun == (0 if text.startswith("sensor") else 1)  # a sensor repeats itself only from its second reading on
    actions = [controller.act(sensed(turn)).tolist() for turn in range(4)]
    assert len(caplog.records) == 1 and caplog.records[0].levelno == logging.WARNING
    caplog.clear(), controller.reset()
    assert actions == [PLANNED] * (2 - begun) + [list(PARKED)] * (2 + begun)


def test_a_planner_s_thread_that_ends_is_a_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the thread that plans is gone, that is logged at the next decision, and ends in the safe action."""
    controller = make(tmp_path, pipelined=True, delay=1, safety=Safety(hold_ms=40))
    controller.act(GOOD)
    controller.close()
    actions = [controller.act(GOOD).tolist() for _ in range(6)]
    assert any("thread has ended" in record.message for record in caplog.records)
    assert controller.counters.faults[Fault.PLAN] >= 5 and actions[-1] == NOUGHT


def test_a_planner_that_hangs_ends_in_the_safe_action(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where a plan never comes, that is logged when it is due, and the plan before it is followed to its end."""
    executor = Inline()
    controller = make(tmp_path, pipelined=True, delay=1, executor=executor, safety=Safety(hold_ms=20))
    controller.act(GOOD)
    executor.release()
    actions = [controller.act(GOOD).tolist() for _ in range(8)]
    assert any("a plan is late" in record.message for record in caplog.records)
    assert controller.counters.faults[Fault.LATE] > 0 and actions[-1] == NOUGHT != actions[1]


def test_repeated_faults_are_logged_less_and_less(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A fault that goes on is logged after 0, 1, 3, 7, ... seconds; one that comes again after a minute, at once."""
    now = 0.0
    controller = make(tmp_path, clock=lambda: now)
    told = []
    for tick in range(1, 160):
        controller.act(None)
        told += [now] * len(caplog.records)
        caplog.clear()
        now = 0.1 * tick
    assert told == pytest.approx([0, 1, 3, 7, 15], abs=0.11)
    now += LONGEST_S + 1
    controller.act(None)
    assert len(caplog.records) == 1 and "times" not in caplog.text


def test_a_callback_hears_of_each_fault_and_breaks_nothing(tmp_path: Path) -> None:
    """The callback gets every fault with kind and sensor, and what it raises does not stop the controller."""
    heard: list[ControlFault] = []

    def callback(fault: ControlFault) -> None:
        heard.append(fault)
        raise OSError("no disk")

    controller = make(tmp_path, callback=callback)
    actions = [controller.act({"joint": [0, np.nan], "body": {"height": 1}}) for _ in range(3)]
    assert [(fault.fault, fault.sensor) for fault in heard] == [(Fault.NONFINITE, "joint")] * 3
    assert np.isfinite(actions).all()


def test_plans_come_in_gently(tmp_path: Path) -> None:
    """After the start and after a fault the action moves from the safe or held one to the plan's in equal steps."""
    controller = make(tmp_path, safety=Safety(blend_ms=80))
    actions = [controller.act(moved(turn)).tolist() for turn in range(5)]
    assert actions == [[0.5, 0.625], [1.0, 0.75], [1.5, 0.875], PLANNED, PLANNED] and controller.ratio == 1
    assert controller.act(None).tolist() == PLANNED and controller.ratio == 0
    controller.act(moved(6))
    assert controller.ratio == 0.25


@pytest.mark.parametrize(
    ("safety", "says"),
    [
        (Safety(hold_ms=-1), "hold_ms must be 0 or more"),
        (Safety(blend_ms=np.inf), "blend_ms must be 0 or more"),
        (Safety(range_margin=np.nan), "range_margin must be 0 or more"),
        (Safety(on_hold_timeout=(9.0, 9.0)), "on_hold_timeout must be 2 numbers"),
        (Safety(on_hold_timeout=(1.0,)), "on_hold_timeout must be 2 numbers"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, safety: Safety, says: str) -> None:
    """A setting out of its range is one line that names it."""
    with pytest.raises(BundleError, match=says):
        make(tmp_path, safety=safety)


def test_an_older_bundle_knows_no_ranges(described: Bundle) -> None:
    """Where the manifest tells no range and no repetition, nothing is out of range or stuck."""
    graphs = {bundle.PLANNER: Scripted(lambda _: planned())}
    controller = Controller(described, graphs, safety=Safety(range_margin=0.0, stuck_ms=0.0))
    for _ in range(3):
        controller.act({"joint": [1e9, 0], "body": {"height": 1}})
    assert sum(controller.counters.faults.values()) == 0
