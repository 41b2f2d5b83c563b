"""Laws of the measurement, on a clock that tests wind: rounds, timetables, misses, and what is recorded beside them."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tdmpc import machine
from tdmpc.deploy.timing import ROUNDS, WARM_UP, Clock, Timed, periodic, remarks, row, single_stream

FACTS = {"bundle": "b", "backend": "x", "precision": "float32", "threads": 1, "macs": 1000, "model": "m"}
MACHINE = {**machine.facts(machine.Before(load=0.0, stolen_s=None)), "awake": False, "cores": 2}


class Time:
    """A clock that moves only while something sleeps or computes."""

    def __init__(self) -> None:
        self.now = self.computed = 0.0
        self.clock = Clock(lambda: self.now, lambda: self.computed, self.sleep, lambda: 0)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def subject(self, durations: Sequence[float], *, share: float = 1.0) -> Timed:
        """Decides in these times, over and over; the warm-up is immediate."""
        calls = -WARM_UP

        def decide(released_at: float | None) -> None:
            nonlocal calls
            if calls >= 0:
                self.now += durations[calls % len(durations)]
                self.computed += share * durations[calls % len(durations)]
            calls += 1

        return Timed(dict(FACTS), decide)


@pytest.fixture
def time() -> Time:
    return Time()


def test_single_stream_is_long_enough(time: Time) -> None:
    """There are as many calls and as much time as asked for, in equal rounds, without the warm-up."""
    quick, slow = time.subject([0.001]), time.subject([0.5])
    single_stream([quick, slow], calls=1000, seconds=10.0, clock=time.clock)
    assert [len(times) for times in quick.times.wall_s] == [pytest.approx(2000, abs=1)] * ROUNDS
    assert [len(times) for times in slow.times.wall_s] == [200] * ROUNDS
    assert quick.times.busy_s == pytest.approx(10, rel=1e-3) and slow.times.busy_s == pytest.approx(500)


def test_subjects_take_turns(time: Time) -> None:
    """A slow change of the machine hits all subjects alike: each is timed in every round before the next begins."""
    turns: list[str] = []
    subjects = [Timed(dict(FACTS), lambda _, name=name: turns.append(name)) for name in "ab"]
    single_stream(subjects, calls=ROUNDS, seconds=0.0, clock=time.clock)
    assert "".join(turns[2 * WARM_UP :]) == "ab" * ROUNDS


def test_a_release_waits_for_its_time(time: Time) -> None:
    """Calls begin at multiples of the period, however long the ones before took; in time, nothing is missed."""
    subject = time.subject([0.001, 0.009])
    periodic([subject], period_s=0.01, periods=10, clock=time.clock)
    assert subject.times.late_s == pytest.approx([0.0] * 10, abs=1e-9)
    assert np.concatenate(subject.times.wall_s) == pytest.approx([0.001, 0.009] * 5)
    assert subject.times.missed == [False] * 10


def test_a_late_call_misses_and_skips(time: Time) -> None:
    """A call that takes 2.5 periods misses its own deadline and the next release, and delays the one after that."""
    subject = time.subject([0.025, 0.001, 0.001, 0.001])
    periodic([subject], period_s=0.01, periods=5 * ROUNDS, clock=time.clock)
    first = subject.times.missed[:5]
    assert first == [True, True, False, False, False]
    assert subject.times.late_s[:2] == pytest.approx([0.0, 0.005])
    assert len(subject.times.missed) == 5 * ROUNDS


def test_every_period_is_accounted_for(time: Time) -> None:
    """However slow the calls, as many periods are met or missed as were asked for."""
    subject = time.subject([1.0])
    periodic([subject], period_s=0.01, periods=23, clock=time.clock)
    assert subject.times.missed == [True] * 23


def test_a_row_has_what_was_promised(time: Time) -> None:
    """A row in single-stream mode has percentiles, spread of the rounds, CPU time, rates and conditions; it is JSON."""
    subject = time.subject([0.001, 0.003])
    single_stream([subject], calls=1000, seconds=0.0, clock=time.clock)
    found = row(subject.facts, subject.times, period_ms=None, machine=MACHINE)
    assert json.loads(json.dumps(found)) == found
    assert (found["mode"], found["calls"], found["p50_ms"], found["max_ms"]) == ("single", 1000, 3.0, 3.0) or (
        found["min_ms"],
        found["p99_ms"],
    ) == pytest.approx((1.0, 3.0))
    assert found["cpu_ms_mean"] == pytest.approx(2.0) and found["cpu_share"] == pytest.approx(1.0)
    assert found["spread"] == pytest.approx(0.0)
    promised = "processor threads affinity load_before load_after versions peak_rss_bytes macs macs_per_s contended"
    assert found.keys() >= set(promised.split())


def test_a_periodic_row_has_its_misses(time: Time) -> None:
    """A row in periodic mode tells misses with their bounds, the longest run of them, and the jitter."""
    subject = time.subject([0.015, *[0.001] * 8])
    periodic([subject], period_s=0.01, periods=1000, clock=time.clock)
    found = row(subject.facts, subject.times, period_ms=10.0, machine=MACHINE)
    assert (found["mode"], found["period_ms"], found["periods"]) == ("periodic", 10.0, 1000)
    assert found["misses"] == sum(subject.times.missed) > 0
    assert found["miss_rate_lower95"] < found["miss_rate"] < found["miss_rate_upper95"]
    assert found["longest_misses"] == 1 and found["jitter_max_ms"] == pytest.approx(5.0)


@pytest.mark.parametrize(("share", "load", "contended"), [(1.0, 0.2, False), (0.8, 0.2, True), (1.0, 1.5, True)])
def test_a_contended_run_is_flagged(time: Time, share: float, load: float, contended: bool) -> None:
    """Where calls had less than their core's time, or no core was free at the start, the row says so."""
    subject = time.subject([0.001], share=share)
    single_stream([subject], calls=50, seconds=0.0, clock=time.clock)
    found = row(subject.facts, subject.times, period_ms=None, machine={**MACHINE, "load_before": load})
    assert found["contended"] is contended


@pytest.mark.parametrize("measure", [single_stream, periodic])
def test_preemptions_are_those_of_the_calls(time: Time, measure: Callable[..., None]) -> None:
    """What other processes do to a subject's calls is counted for it, and what they do between calls is not."""
    taken = 0

    def preempted() -> int:
        return taken

    def sleep(seconds: float) -> None:
        nonlocal taken
        taken += 100
        time.sleep(seconds)

    def decide(released_at: float | None) -> None:
        nonlocal taken
        taken += 1
        time.now += 0.001

    clock = time.clock._replace(preemptions=preempted, sleep=sleep)
    subject = Timed(dict(FACTS), decide)
    settings = {"calls": 50, "seconds": 0.0} if measure is single_stream else {"period_s": 0.01, "periods": 50}
    measure([subject], clock=clock, **settings)
    assert subject.times.preemptions == 50


def test_a_controller_is_told_when_it_was_due(time: Time) -> None:
    """At a period every call knows its release, one after the other there is none."""
    due: list[float | None] = []
    subject = Timed(dict(FACTS), due.append)
    periodic([subject], period_s=0.5, periods=5, clock=time.clock)
    assert due[WARM_UP:] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.5])
    due.clear()
    single_stream([subject], calls=5, seconds=0.0, clock=time.clock)
    assert due == [None] * (WARM_UP + 5)


def test_reduced_precision_is_worth_only_its_speed() -> None:
    """Beside an int8 or bfloat16 row stands how fast it is against the same agent in float32, or that nothing tells."""

    def made(precision: str, p50_ms: float, model: str = "m") -> dict[str, Any]:
        facts = {"precision": precision, "p50_ms": p50_ms, "model": model, "threads": 1, "mode": "single"}
        return {**facts, "contended": False}

    rows = [made("float32", 10.0), made("int8", 12.5), made("bfloat16", 4.0), made("int8", 1.0, "other")]
    assert remarks(rows) == [
        "",
        "not faster than float32 (0.80 x)",
        "2.50 x as fast as float32",
        "nothing in float32 to compare with",
    ]
    assert remarks([{**rows[0], "contended": True}]) == ["contended"]
