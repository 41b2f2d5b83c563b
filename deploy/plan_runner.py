"""When plans are made: at once, until time is up, or ahead of the decision that they are for.

A runtime cannot be interrupted. So whoever may not wait for a plan leaves it to a thread.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from tdmpc.deploy import bundle, realtime
from tdmpc.deploy.backends import Graph
from tdmpc.deploy.bundle import Arrays
from tdmpc.deploy.faults import ControlFault, Fault

SLACK = 0.9
"""How much of the slowest iteration so far is still believed after another one: a hiccup is forgotten in time."""

T = TypeVar("T")
Draw = Callable[[], Arrays]
"""The noise of a plan, by graph input; not drawn again before ``is_free``."""


class Made(NamedTuple):
    """A plan, and the decision that it begins with."""

    decision: int
    iterations: int
    action: np.ndarray
    """The first one, ``Float32[A]`` in the actuators' units."""
    mean: np.ndarray
    """``Float32[H A]`` in [-1, 1]."""
    value: float

    def ahead(self, decision: int) -> np.ndarray:
        """What of it is left: ``Float32[h A]`` from this decision on; nothing where it begins later."""
        return self.mean[decision - self.decision :] if decision >= self.decision else self.mean[:0]


class PlanRunner(Protocol):
    """Makes one plan after the other."""

    def is_free(self, until: float) -> bool:
        """Whether nothing is being planned; may wait for that until then, on the controller's clock."""
        ...

    def plan(self, decision: int, inputs: Mapping[str, np.ndarray], draw: Draw, *, until: float) -> None:
        """Plan for a decision; may wait for the plan until then. Only to be called when free."""
        ...

    def finished(self) -> Made | None:
        """The newest plan, once.

        Raises:
            ControlFault: the planner failed; it can be asked again.
        """
        ...

    def close(self) -> None:
        """End the planner's thread, if there is one."""
        ...


class AtOnce:
    """Plans in the caller's own thread, however long it takes."""

    def __init__(self, planner: Graph, *, iterations: int) -> None:
        self._planner, self._iterations = planner, iterations
        self._made: Made | None = None

    def is_free(self, until: float) -> bool:
        return True

    def plan(self, decision: int, inputs: Mapping[str, np.ndarray], draw: Draw, *, until: float) -> None:
        self._made = _made(decision, self._iterations, self._planner({**inputs, **draw()}))

    def finished(self) -> Made | None:
        made, self._made = self._made, None
        return made

    def close(self) -> None:
        pass


class Ahead:
    """Plans in a thread for a decision that is still to come, and never waits."""

    def __init__(self, planner: Graph, *, iterations: int, executor: Executor) -> None:
        self._planner, self._iterations, self._executor = planner, iterations, executor
        self._running: Future[Made] | None = None

    def is_free(self, until: float) -> bool:
        return self._running is None or self._running.done()

    def plan(self, decision: int, inputs: Mapping[str, np.ndarray], draw: Draw, *, until: float) -> None:
        self._running = _submitted(
            self._executor, lambda: _made(decision, self._iterations, self._planner({**inputs, **draw()}))
        )

    def finished(self) -> Made | None:
        if self._running is None or not self._running.done():
            return None
        ended, self._running = self._running, None
        return _result(ended)

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)


@dataclass
class _Job:
    decision: int
    inputs: Mapping[str, np.ndarray]
    draws: np.ndarray
    until: float
    abandoned: bool = False


class Anytime:
    """Plans as many iterations as fit.

    What is not ready in time is not lost: it is ``finished`` later, and so the next warm start.
    """

    def __init__(
        self,
        start: Graph,
        refine: Graph,
        *,
        executor: Executor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start, self._refine, self._executor, self._clock = start, refine, executor, clock
        self._running: Future[None] | None = None
        self._latest: Made | None = None
        self._taken = 0
        self._pace = 0.0

    def is_free(self, until: float) -> bool:
        self._wait(until)
        return self._running is None or self._running.done()

    def plan(self, decision: int, inputs: Mapping[str, np.ndarray], draw: Draw, *, until: float) -> None:
        draws = draw()
        start = {name: value for name, value in draws.items() if name != "noise_samples"}
        job = _Job(decision, {**inputs, **start}, draws["noise_samples"], until)
        self._running = _submitted(self._executor, lambda: self._work(job))
        self._wait(until)
        job.abandoned = True

    def finished(self) -> Made | None:
        if self._running is not None and self._running.done():
            ended, self._running = self._running, None
            _result(ended)
        latest = self._latest
        if latest is None or latest.decision <= self._taken:
            return None
        self._taken = latest.decision
        return latest

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)  # after the iteration that it is in

    def _wait(self, until: float) -> None:
        if self._running is not None:
            wait([self._running], timeout=max(until - self._clock(), 0.0))

    def _work(self, job: _Job) -> None:
        state = dict(self._start(job.inputs))
        for number, noise in enumerate(job.draws, start=1):
            begun = self._clock()
            # The first iteration is made in any case: late, it still is the next warm start.
            if number > 1 and (job.abandoned or begun + self._pace > job.until):
                return
            refined = self._refine({**state, "noise": noise})
            state |= {"mean": refined["new_mean"], "std": refined["new_std"]}
            self._latest = _made(job.decision, number, refined)
            self._pace = max(self._clock() - begun, SLACK * self._pace)


def planned(
    graphs: Mapping[str, Graph],
    iterations: int,
    *,
    deadline: bool,
    pipelined: bool,
    executor: Callable[[], Executor],
    clock: Callable[[], float],
) -> PlanRunner:
    """The way to plan that a controller was asked for, with graphs by file name."""
    if deadline:
        return Anytime(graphs[bundle.START], graphs[bundle.REFINE], executor=executor(), clock=clock)
    if pipelined:
        return Ahead(graphs[bundle.PLANNER], iterations=iterations, executor=executor())
    return AtOnce(graphs[bundle.PLANNER], iterations=iterations)


def thread(priority: int | None) -> Executor:
    """A thread to plan in, at a real-time priority (``tdmpc.deploy.realtime.prioritise``)."""
    return ThreadPoolExecutor(1, thread_name_prefix="planner", initializer=realtime.prioritise, initargs=(priority,))


def draw_noise(random: np.random.Generator, noise: Arrays) -> Arrays:
    """Fill arrays with standard normal draws, in the order in which they are given, and return them."""
    for values in noise.values():
        random.standard_normal(dtype=np.float32, out=values)
    return noise


def _made(decision: int, iterations: int, outputs: Arrays) -> Made:
    return Made(decision, iterations, outputs["action"], outputs["new_mean"], float(outputs["value"]))


def _submitted(executor: Executor, work: Callable[[], T]) -> Future[T]:
    """Have a thread do something.

    Raises:
        ControlFault: there is no thread any more.
    """
    try:
        return executor.submit(work)
    except RuntimeError as error:
        raise ControlFault(Fault.PLAN, f"the planner's thread has ended: {error}") from error


def _result(ended: Future[T]) -> T:
    """What a thread made.

    Raises:
        ControlFault: it failed instead.
    """
    if (error := ended.exception()) is not None:
        raise ControlFault(Fault.PLAN, f"the planner failed: {type(error).__name__}: {error}") from error
    return ended.result()
