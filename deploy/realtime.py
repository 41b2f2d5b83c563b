"""What a controller asks of the system: which cores, which priority, and no idle states."""

import os
import struct
from functools import cache
from pathlib import Path
from typing import IO

from tdmpc.deploy.bundle import BundleError

WAKING_LATENCY = Path("/dev/cpu_dma_latency")
"""Where Linux takes wishes for how soon a core is to be awake."""


def settle(*, cores: tuple[int, ...], priority: int | None, awake: bool) -> None:
    """Give this thread, and those that it starts from here on, their cores and their priority.

    Args:
        cores: as ``pin`` has them.
        priority: as ``prioritise`` has it.
        awake: whether to ``stay_awake``.

    Raises:
        BundleError: the system cannot, or this process may not.
    """
    pin(cores)
    if awake:
        stay_awake()
    prioritise(priority)


def pin(cores: tuple[int, ...]) -> None:
    """Stay on these cores, with every thread that is started from here on; none leaves the choice to the system.

    Raises:
        BundleError: the system has no such core, or cannot pin.
    """
    if not cores:
        return
    try:
        os.sched_setaffinity(0, cores)
    except (AttributeError, OSError, OverflowError, ValueError) as error:
        raise BundleError(f"cannot stay on cores {', '.join(map(str, cores))}: {error}") from error


def prioritise(priority: int | None) -> None:
    """Run at a real-time priority, with every thread that is started from here on.

    Raises:
        BundleError: there is no such priority, or this process may not have it.
    """
    if priority is None:
        return
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (AttributeError, OSError, OverflowError) as error:
        raise BundleError(
            f"cannot run at real-time priority {priority}: {error}. On Linux 2 to 99 are to be had with CAP_SYS_NICE "
            "or an rtprio limit (ulimit -r)"
        ) from error


def stay_awake() -> None:
    """Have all cores answer at once, for as long as this process lives.

    Raises:
        BundleError: the system cannot, or this process may not ask it to.
    """
    try:
        _no_latency()
    except OSError as error:
        raise BundleError(
            f"cannot keep the cores awake: {error}. On Linux this takes the right to write to {WAKING_LATENCY}"
        ) from error


def awake() -> bool:
    """Whether this process keeps the cores awake."""
    return _no_latency.cache_info().currsize > 0


@cache
def _no_latency() -> IO[bytes]:
    """The wish to be woken within 0 us; the system forgets it when the file is closed, so it is kept."""
    file = open(os.open(WAKING_LATENCY, os.O_WRONLY), "wb", buffering=0)  # noqa: SIM115 - never makes a file of its own
    file.write(struct.pack("i", 0))
    return file
