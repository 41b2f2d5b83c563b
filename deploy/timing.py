"""How long decisions take: one after the other, or at a control period with absolute deadlines.

The controllers take turns in rounds, so that a drift of the machine hits all alike. What a time depends on is recorded
beside it, and a run during which the processor was not ours alone is flagged.
"""

import json
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tdmpc.deploy import percentiles
from tdmpc.deploy.backends import Runtime
from tdmpc.deploy.bundle import BundleError
from tdmpc.deploy.controller import Controller

ROUNDS = 5
OWN_SHARE = 0.95
"""Least CPU time in a unit of wall time with which a thread had its core to itself."""
WARM_UP = 20

Row = dict[str, Any]


@contextmanager
def read(path: Path) -> Iterator[list[Row]]:
    """What ``tdmpc latency --json`` wrote: a row for each controller and way of timing it.

    Raises:
        BundleError: the file is none of these, or lacks what is looked for inside the context.
    """
    try:
        yield json.loads(path.read_text())
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BundleError(
            f"{path} is not what tdmpc latency --json writes ({type(error).__name__}: {error})"
        ) from error


class Clock(NamedTuple):
    """What time is, so that tests can say."""

    wall: Callable[[], float]
    """Seconds."""
    cpu: Callable[[], float]
    """Seconds that this process has computed, in all its threads."""
    sleep: Callable[[float], None]
    preemptions: Callable[[], int]
    """How often another process took the processor from a thread of this one."""


CLOCK = Clock(time.monotonic, time.process_time, time.sleep, lambda: resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw)


@dataclass
class Times:
    """What was measured of one subject's decisions; the program in C++ prints the same."""

    wall_s: list[list[float]] = field(default_factory=list)
    """Of each call, round by round; in periodic mode from the release on."""
    cpu_s: float = 0.0
    busy_s: float = 0.0
    """Wall time of the calls alone."""
    preemptions: int = 0
    """Of the calls: the longest times are theirs, unless the machine itself was taken away (``stolen_ms``)."""
    late_s: list[float] = field(default_factory=list)
    """Periodic mode: how long after its release a call began."""
    missed: list[bool] = field(default_factory=list)
    late_plans: int = 0
    """Decisions for which no new plan was ready."""

    @property
    def every_ms(self) -> np.ndarray:
        """Of all calls, in their order."""
        return 1000 * np.concatenate(self.wall_s)

    @property
    def cpu_share(self) -> float:
        """CPU time in a unit of wall time; below ``OWN_SHARE``, something else computed on the same core."""
        return self.cpu_s / self.busy_s


@dataclass
class Timed:
    """Something that decides, and the times of its decisions."""

    facts: Row
    """What is known before: bundle, backend, precision, threads, multiply-adds, ..."""
    decide: Callable[[float | None], object]
    """Given when the decision was due, if it was due at a time."""
    late_plans: Callable[[], int] = lambda: 0
    """Decisions so far for which no new plan was ready."""
    times: Times = field(default_factory=Times)


def single_stream(subjects: Sequence[Timed], *, calls: int = 1000, seconds: float = 10.0, clock: Clock = CLOCK) -> None:
    """Call after call, at least so many and for so long, in ``ROUNDS`` rounds."""
    _warm_up(subjects)
    for _ in range(ROUNDS):
        for subject in subjects:
            wall: list[float] = []
            late = subject.late_plans()
            cpu, preemptions, begun = clock.cpu(), clock.preemptions(), clock.wall()
            while len(wall) < calls / ROUNDS or clock.wall() - begun < seconds / ROUNDS:
                entered = clock.wall()
                subject.decide(None)
                wall.append(clock.wall() - entered)
            subject.times.cpu_s += clock.cpu() - cpu
            subject.times.preemptions += clock.preemptions() - preemptions
            subject.times.busy_s += sum(wall)
            subject.times.late_plans += subject.late_plans() - late
            subject.times.wall_s.append(wall)


def periodic(subjects: Sequence[Timed], *, period_s: float, periods: int, clock: Clock = CLOCK) -> None:
    """A call at every release of a fixed timetable; the next release is its deadline.

    A release that passes while an earlier call still runs is missed without a call, as a control loop would skip it.
    """
    _warm_up(subjects)
    for round_periods in np.diff(np.linspace(0, periods, ROUNDS + 1).astype(int)).tolist():
        for subject in subjects:
            _timetable(subject, period_s, round_periods, clock)


def _timetable(subject: Timed, period_s: float, periods: int, clock: Clock) -> None:
    wall: list[float] = []
    late, start, number = subject.late_plans(), clock.wall() + period_s, 0
    while number < periods:
        release = start + number * period_s
        while (ahead := release - clock.wall()) > 0:
            clock.sleep(ahead)
        entered, cpu, preemptions = clock.wall(), clock.cpu(), clock.preemptions()
        subject.decide(release)
        ended = clock.wall()
        subject.times.cpu_s += clock.cpu() - cpu
        subject.times.preemptions += clock.preemptions() - preemptions
        subject.times.busy_s += ended - entered
        subject.times.late_s.append(entered - release)
        wall.append(ended - release)
        # A call that took 2.5 periods from its release on has missed its own deadline and skipped the next release.
        skipped = min(max(int((ended - release) / period_s) - 1, 0), periods - number - 1)
        subject.times.missed += [ended - release > period_s, *[True] * skipped]
        number += 1 + skipped
    subject.times.wall_s.append(wall)
    subject.times.late_plans += subject.late_plans() - late


def _warm_up(subjects: Sequence[Timed]) -> None:
    for subject in subjects:
        for _ in range(WARM_UP):
            subject.decide(None)


# What was measured ------------------------------------------------------------------------------------------------


def row(facts: Mapping[str, Any], times: Times, *, period_ms: float | None, machine: Mapping[str, Any]) -> Row:
    """Everything that is reported of one subject, in milliseconds.

    Args:
        facts: what is known of the subject.
        times: of its decisions.
        period_ms: at which it decided; None where call followed call.
        machine: as ``machine.facts`` has it, and whether the cores were kept ``awake``.
    """
    every = times.every_ms
    medians = [1000 * float(np.median(wall)) for wall in times.wall_s if wall]
    return {
        **facts,
        "mode": "single" if period_ms is None else "periodic",
        "calls": len(every),
        **_in_ms(every),
        "quantiles_ms": percentiles.quantiles(every),
        "repeat_p50_ms": medians,
        "spread": (max(medians) - min(medians)) / float(np.median(medians)),
        "cpu_ms_mean": 1000 * times.cpu_s / len(every),
        "cpu_share": times.cpu_share,
        "preemptions": times.preemptions,
        "late_plans": times.late_plans,
        **({} if period_ms is None else _periods(times, period_ms)),
        "macs_per_s": 1000 * facts["macs"] / float(np.median(every)),
        **machine,
        "contended": times.cpu_share < OWN_SHARE or machine["load_before"] > machine["cores"] - facts["threads"],
    }


def _periods(times: Times, period_ms: float) -> Row:
    misses, trials = sum(times.missed), len(times.missed)
    return {
        "period_ms": period_ms,
        "periods": trials,
        "misses": misses,
        "miss_rate": misses / trials,
        "miss_rate_lower95": percentiles.lower_bound(misses, trials),
        "miss_rate_upper95": percentiles.upper_bound(misses, trials),
        "longest_misses": percentiles.longest_run(times.missed),
        **_in_ms(1000 * np.array(times.late_s), "jitter_"),
    }


def _in_ms(values: np.ndarray, name: str = "") -> Row:
    return {f"{name}{figure}_ms": value for figure, value in percentiles.summary(values).items()}


def remarks(rows: Sequence[Row]) -> list[str]:
    """For each row, whether its reduced precision is worth anything here: only where it is faster."""
    return [_remark(each, rows) for each in rows]


def _remark(row: Row, rows: Sequence[Row]) -> str:
    said = "contended; " if row["contended"] else ""
    if row["precision"] == "float32":
        return said.rstrip("; ")
    same = ("model", "threads", "mode")
    full = [other for other in rows if other["precision"] == "float32" and all(other[key] == row[key] for key in same)]
    if not full:
        return f"{said}nothing in float32 to compare with"
    ratio = min(other["p50_ms"] for other in full) / row["p50_ms"]
    return said + (f"{ratio:.2f} x as fast as float32" if ratio > 1 else f"not faster than float32 ({ratio:.2f} x)")


# Controllers --------------------------------------------------------------------------------------------------------


def timed_controller(
    folder: Path, runtime: Runtime, *, deadline_ms: float | None = None, pipelined: bool = False
) -> Timed:
    """A bundle's controller as a robot calls it, on the observations of its golden plans in turn."""
    begun = time.perf_counter()
    controller = Controller.load(folder, runtime, deadline_ms=deadline_ms, pipelined=pipelined)
    load_s = time.perf_counter() - begun
    sensors = controller.bundle.sensors
    observations = [{each.name: inputs[each.input] for each in sensors} for inputs, _ in controller.bundle.golden()]
    calls = 0

    def decide(released_at: float | None) -> object:
        nonlocal calls
        calls += 1
        return controller.act(observations[calls % len(observations)], released_at=released_at)

    files = controller.bundle.manifest["files"]
    facts = {
        "bundle": str(folder),
        "backend": runtime.backend,
        "language": "python",
        "precision": controller.precision,
        "threads": runtime.threads,
        "spinning": runtime.spinning,
        "deadline_ms": deadline_ms,
        "pipelined": pipelined,
        "macs": controller.bundle.macs,
        "bytes": sum(file["bytes"] for name, file in files.items() if name.endswith(".onnx")),
        "load_s": load_s,
        "return_mean": controller.bundle.manifest["training"]["return_mean"],
        "model": controller.bundle.model_id,
    }
    return Timed(facts, decide, lambda: controller.counters.late)
