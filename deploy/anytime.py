"""Planning until time is up: one iteration after the other, in a thread that the caller never waits for too long."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from deploy import realtime
from deploy.backends import Graph

SLACK = 0.9
"""How much of the slowest iteration so far is still believed after another one: a hiccup is forgotten in time."""


class Refinement(NamedTuple):
    """The best plan so far of a decision."""

    decision: int
    iterations: int
    action: np.ndarray
    mean: np.ndarray
    value: float


@dataclass
class _Job:
    decision: int
    inputs: Mapping[str, np.ndarray]
    draws: np.ndarray
    until: float
    abandoned: bool = False


class Anytime:
    """Plans as many iterations as fit. A runtime cannot be interrupted, hence the thread.

    What is not ready in time is not lost: it becomes ``latest`` when it is, and so the next warm start.
    """

    latest: Refinement | None = None

    def __init__(
        self,
        start: Graph,
        refine: Graph,
        *,
        priority: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Plan with these graphs, in a thread of this priority (``deploy.realtime.prioritise``)."""
        self._start, self._refine, self._clock = start, refine, clock
        self._thread = ThreadPoolExecutor(
            1, thread_name_prefix="planner", initializer=realtime.prioritise, initargs=(priority,)
        )
        self._running: Future[None] | None = None
        self._pace = 0.0

    def plan(self, decision: int, inputs: Mapping[str, np.ndarray], draws: np.ndarray, *, until: float) -> None:
        """Plan until then; ``latest`` tells what came of it.

        Args:
            decision: number of this decision; a late result of an earlier one keeps its own.
            inputs: of the start graph; not to be written to before ``is_free``.
            draws: standard normal, ``Float32[I H N A]``; not to be written to before ``is_free``.
            until: when the caller must have an answer, on the clock given.
        """
        job = _Job(decision, inputs, draws, until)
        self._running = self._thread.submit(self._work, job)
        self._wait(until)
        job.abandoned = True

    def is_free(self, until: float) -> bool:
        """Whether nothing is being planned; waits for that at most until then."""
        self._wait(until)
        return self._running is None or self._running.done()

    def close(self) -> None:
        """End the thread, after the iteration that it is in."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _wait(self, until: float) -> None:
        if self._running is None:
            return
        wait([self._running], timeout=max(until - self._clock(), 0.0))
        if self._running.done():
            self._running.result()  # raises what the thread raised

    def _work(self, job: _Job) -> None:
        state = dict(self._start(job.inputs))
        for number, noise in enumerate(job.draws, start=1):
            begun = self._clock()
            # The first iteration is made in any case: late, it still is the next warm start.
            if number > 1 and (job.abandoned or begun + self._pace > job.until):
                return
            refined = self._refine({**state, "noise": noise})
            state |= {"mean": refined["new_mean"], "std": refined["new_std"]}
            self.latest = Refinement(
                job.decision, number, refined["action"], refined["new_mean"], float(refined["value"])
            )
            self._pace = max(self._clock() - begun, SLACK * self._pace)
