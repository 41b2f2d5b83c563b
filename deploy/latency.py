"""How long decisions take: one after the other, or at a control period with absolute deadlines.

Subjects take turns in rounds, so that a drift of the machine hits all alike. What a time depends on is recorded beside
it, and a run during which the processor was not ours alone is flagged.
"""

import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deploy import backends, bundle, percentiles
from deploy.backends import Runtime
from deploy.bundle import Bundle
from deploy.controller import Controller

ROUNDS = 5
OWN_SHARE = 0.95
"""Least CPU time in a unit of wall time with which a thread had its core to itself."""
WARM_UP = 20

Row = dict[str, Any]


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
class Subject:
    """Something that decides, and the times of its decisions."""

    facts: Row
    """What is known before: bundle, backend, precision, threads, multiply-adds, ..."""
    decide: Callable[[float | None], object]
    """Given when the decision was due, if it was due at a time."""
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


def single_stream(
    subjects: Sequence[Subject], *, calls: int = 1000, seconds: float = 10.0, clock: Clock = CLOCK
) -> None:
    """Call after call, at least so many and for so long, in ``ROUNDS`` rounds."""
    _warm_up(subjects)
    for _ in range(ROUNDS):
        for subject in subjects:
            times: list[float] = []
            cpu, preemptions, begun = clock.cpu(), clock.preemptions(), clock.wall()
            while len(times) < calls / ROUNDS or clock.wall() - begun < seconds / ROUNDS:
                entered = clock.wall()
                subject.decide(None)
                times.append(clock.wall() - entered)
            subject.cpu_s += clock.cpu() - cpu
            subject.preemptions += clock.preemptions() - preemptions
            subject.busy_s += sum(times)
            subject.wall_s.append(times)


def periodic(subjects: Sequence[Subject], *, period_s: float, periods: int, clock: Clock = CLOCK) -> None:
    """A call at every release of a fixed timetable; the next release is its deadline.

    A release that passes while an earlier call still runs is missed without a call, as a control loop would skip it.
    """
    _warm_up(subjects)
    for round_periods in np.diff(np.linspace(0, periods, ROUNDS + 1).astype(int)).tolist():
        for subject in subjects:
            _timetable(subject, period_s, round_periods, clock)


def _timetable(subject: Subject, period_s: float, periods: int, clock: Clock) -> None:
    times: list[float] = []
    start, number = clock.wall() + period_s, 0
    while number < periods:
        release = start + number * period_s
        while (ahead := release - clock.wall()) > 0:
            clock.sleep(ahead)
        entered, cpu, preemptions = clock.wall(), clock.cpu(), clock.preemptions()
        subject.decide(release)
        ended = clock.wall()
        subject.cpu_s += clock.cpu() - cpu
        subject.preemptions += clock.preemptions() - preemptions
        subject.busy_s += ended - entered
        subject.late_s.append(entered - release)
        times.append(ended - release)
        # A call that took 2.5 periods from its release on has missed its own deadline and skipped the next release.
        skipped = min(max(int((ended - release) / period_s) - 1, 0), periods - number - 1)
        subject.missed += [ended - release > period_s, *[True] * skipped]
        number += 1 + skipped
    subject.wall_s.append(times)


def _warm_up(subjects: Sequence[Subject]) -> None:
    for subject in subjects:
        for _ in range(WARM_UP):
            subject.decide(None)


# What was measured ------------------------------------------------------------------------------------------------


def row(subject: Subject, *, period_ms: float | None, machine: Row) -> Row:
    """Everything that is reported of one subject, in milliseconds."""
    every = 1000 * np.concatenate(subject.wall_s)
    medians = [1000 * float(np.median(times)) for times in subject.wall_s if times]
    figures = {f"{name}_ms": value for name, value in percentiles.summary(every).items()}
    share = subject.cpu_s / subject.busy_s
    median_s = float(np.median(every)) / 1000
    cores = machine["cores"]
    return {
        **subject.facts,
        "mode": "single" if period_ms is None else "periodic",
        "calls": len(every),
        **figures,
        "repeat_p50_ms": medians,
        "spread": (max(medians) - min(medians)) / float(np.median(medians)),
        "cpu_ms_mean": 1000 * subject.cpu_s / len(every),
        "cpu_share": share,
        "preemptions": subject.preemptions,
        **({} if period_ms is None else _periods(subject, period_ms)),
        "macs_per_s": subject.facts["macs"] / median_s,
        **machine,
        "contended": share < OWN_SHARE or machine["load_before"] > cores - subject.facts["threads"],
    }


def _periods(subject: Subject, period_ms: float) -> Row:
    misses, trials = sum(subject.missed), len(subject.missed)
    jitter = percentiles.summary(1000 * np.array(subject.late_s))
    return {
        "period_ms": period_ms,
        "periods": trials,
        "misses": misses,
        "miss_rate": misses / trials,
        "miss_rate_lower95": percentiles.lower_bound(misses, trials),
        "miss_rate_upper95": percentiles.upper_bound(misses, trials),
        "longest_misses": percentiles.longest_run(subject.missed),
        **{f"jitter_{name}_ms": value for name, value in jitter.items()},
    }


class Before(NamedTuple):
    """The machine's state when a measurement begins."""

    load: float
    stolen_s: float | None


def before() -> Before:
    """To be asked just before a measurement."""
    return Before(os.getloadavg()[0], stolen_s())


def stolen_s() -> float | None:
    """Seconds since the start that a hypervisor gave this machine's cores to others; None where nobody counts them."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        return int(fields[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return None


def machine_facts(begun: Before) -> Row:
    """What every time depends on; call it when all is measured."""
    stolen = stolen_s()
    return {
        "processor": processor(),
        "cores": len(_affinity()),
        "affinity": _affinity(),
        "priority": _priority(),
        "awake": backends.awake(),
        "load_before": begun.load,
        "load_after": os.getloadavg()[0],
        "stolen_ms": None if stolen is None or begun.stolen_s is None else round(1000 * (stolen - begun.stolen_s)),
        "peak_rss_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "versions": {name: _version(name) for name in ("numpy", "onnxruntime", "openvino", "torch")},
    }


def remarks(rows: Sequence[Row]) -> list[str]:
    """For each row, whether its reduced precision is worth anything here: only where it is faster."""
    return [_remark(each, rows) for each in rows]


def _remark(row: Row, rows: Sequence[Row]) -> str:
    said = "contended; " if row["contended"] else ""
    if row["precision"] == "fp32":
        return said.rstrip("; ")
    same = ("model", "threads", "mode")
    full = [other for other in rows if other["precision"] == "fp32" and all(other[key] == row[key] for key in same)]
    if not full:
        return f"{said}nothing in fp32 to compare with"
    ratio = min(other["p50_ms"] for other in full) / row["p50_ms"]
    return said + (f"{ratio:.2f} x as fast as fp32" if ratio > 1 else f"not faster than fp32 ({ratio:.2f} x)")


def processor() -> str:
    """What the machine calls its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _affinity() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _priority() -> int | None:
    """Real-time priority of this thread, if it has one."""
    if not hasattr(os, "sched_getscheduler") or os.sched_getscheduler(0) != os.SCHED_FIFO:
        return None
    return os.sched_getparam(0).sched_priority


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


# Subjects ---------------------------------------------------------------------------------------------------------


def controller_subject(folder: Path, runtime: Runtime, *, deadline_ms: float | None = None) -> Subject:
    """A bundle's controller as a robot calls it, on the observations of its golden plans in turn."""
    begun = time.perf_counter()
    controller = Controller.load(folder, runtime, deadline_ms=deadline_ms)
    load_s = time.perf_counter() - begun
    observations = golden_observations(controller.bundle)
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
        "macs": controller.bundle.macs,
        "bytes": sum(file["bytes"] for name, file in files.items() if name != bundle.GOLDEN),
        "load_s": load_s,
        "return_mean": controller.bundle.manifest["training"]["return_mean"],
        "model": controller.bundle.model_id,
    }
    return Subject(facts, decide)


def golden_observations(described: Bundle) -> list[Any]:
    """The observations of the golden plans, as sensors would give them."""
    sensors = described.sensors
    if len(sensors) == 1 and sensors[0].name == sensors[0].input:
        return [inputs[sensors[0].input] for inputs, _ in described.golden()]
    return [_nested({s.name: inputs[s.input] for s in sensors}) for inputs, _ in described.golden()]


def _nested(flat: dict[str, np.ndarray]) -> dict[str, Any]:
    """``{"a/b": 1}`` is ``{"a": {"b": 1}}``."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *folders, name = path.split("/")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[name] = value
    return tree
