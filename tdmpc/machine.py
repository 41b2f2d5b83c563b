"""What every time depends on: the processor, its load, and the versions of what computes.

All packages use it, on a robot too, so it needs the standard library alone.
"""

import os
import platform
import resource
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

RUNTIMES = ("numpy", "onnxruntime", "openvino", "torch")


class Before(NamedTuple):
    """The machine's state when a measurement begins."""

    load: float
    stolen_s: float | None


def before() -> Before:
    """Call this just before a measurement."""
    return Before(os.getloadavg()[0], stolen_s())


def facts(begun: Before) -> dict[str, Any]:
    """What is recorded beside times; call this when everything is measured."""
    stolen = stolen_s()
    return {
        "processor": processor(),
        "cores": len(affinity()),
        "affinity": affinity(),
        "priority": priority(),
        "load_before": begun.load,
        "load_after": os.getloadavg()[0],
        "stolen_ms": None if stolen is None or begun.stolen_s is None else round(1000 * (stolen - begun.stolen_s)),
        "peak_rss_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "versions": {name: _version(name) for name in RUNTIMES},
    }


def processor() -> str:
    """What the machine calls its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def stolen_s() -> float | None:
    """Seconds since the start that a hypervisor gave this machine's cores to others; None where nobody counts them."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        return int(fields[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return None


def affinity() -> list[int]:
    """Cores that this thread may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def priority() -> int | None:
    """Real-time priority of this thread, if it has one."""
    if not hasattr(os, "sched_getscheduler") or os.sched_getscheduler(0) != os.SCHED_FIFO:
        return None
    return os.sched_getparam(0).sched_priority


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
