"""The controller of a robot: numpy and an ONNX runtime, nothing of this project's training half.

    controller = Controller.load("bundle")
    controller.reset(seed=0)
    action = controller.act(observation)

What the sensors give goes in, what the actuators take comes out: finite and within bounds, whatever went in.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deploy import bundle, contract, faults, realtime
from deploy.anytime import Anytime
from deploy.backends import Graph, Runtime
from deploy.bundle import Arrays, Bundle, BundleError
from deploy.faults import ControlFault, Fault, FaultPolicy


@dataclass
class Counters:
    """What has happened since a controller was loaded."""

    decisions: int = 0
    iterations: int = 0
    """Of the planner, in plans that were ready in time."""
    late: int = 0
    """Decisions for which no new plan was ready in time."""
    faults: dict[Fault, int] = field(default_factory=lambda: dict.fromkeys(Fault, 0))


class _Planned(NamedTuple):
    """A plan and the number of the decision that it was made for."""

    decision: int
    mean: np.ndarray

    def ahead(self, decision: int) -> np.ndarray:
        """What of it is left: ``Float32[h A]`` from this decision on."""
        return self.mean[decision - self.decision :]


class Controller:
    """Plans one decision after the other from the observations of a robot.

    ``act`` answers with a new plan's first action. Where a plan is late the one before is followed further; where
    there is nothing to plan from, or no plan left to follow, the fault policy ``on_fault`` decides:

    - ``hold``: the last action again; before there was one, as ``zero``
    - ``zero``: nought in the actuators' units, or the bound nearest to it
    - ``prior``: the policy's action for the last good observation; before there was one, as ``hold``
    - ``raise``: ``ControlFault``
    """

    def __init__(
        self,
        described: Bundle,
        graphs: Mapping[str, Graph],
        *,
        on_fault: FaultPolicy = "hold",
        deadline_ms: float | None = None,
        max_age_ms: float | None = None,
        priority: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Control with graphs that are loaded already; ``load`` is the usual way.

        Args:
            described: the bundle.
            graphs: by file name: the planner, or start and refine where there is a deadline; the policy where the
                controller needs it on a fault.
            on_fault: see the class.
            deadline_ms: answer within this time, with as many planner iterations as fit.
            max_age_ms: an observation measured longer ago is a fault.
            priority: real-time priority of the thread that plans where there is a deadline.
            clock: seconds; ``measured_at`` is on it.
        """
        self.bundle = described
        self.counters = Counters()
        self.value = 0.0
        """Return that the last new plan expects, in the environment's units."""
        self._graphs = graphs
        self._on_fault: FaultPolicy = on_fault
        self._deadline_ms, self._max_age_ms, self._clock = deadline_ms, max_age_ms, clock
        self._anytime = None
        if deadline_ms is not None:
            self._anytime = Anytime(graphs[bundle.START], graphs[bundle.REFINE], priority=priority, clock=clock)
        self._noise = {name: np.zeros(shape, np.float32) for name, shape in described.noise_shapes.items()}
        self._decision = 0
        self.reset(seed=0)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        runtime: Runtime | None = None,
        *,
        on_fault: FaultPolicy = "hold",
        deadline_ms: float | None = None,
        max_age_ms: float | None = None,
    ) -> "Controller":
        """Load a bundle, and run it once, so that the first decision is as quick as the others.

        Args:
            folder: the bundle.
            runtime: backend, threads, cores; one thread of ONNX Runtime when not given.
            on_fault: what to do where nothing can be planned.
            deadline_ms: answer within this time, with as many planner iterations as fit; always all of them, however
                long they take, when not given.
            max_age_ms: an observation measured longer ago is a fault; the control period when not given.

        Raises:
            BundleError: the bundle is damaged, incomplete, from a newer version, or cannot plan within deadlines; its
                manifest describes other graphs.
            ImportError: the backend is not installed.
        """
        if deadline_ms is not None and deadline_ms <= 0:
            raise BundleError(f"deadline_ms must be positive, got {deadline_ms}")
        runtime = runtime or Runtime()
        described = bundle.read(folder)
        names = [bundle.PLANNER] if deadline_ms is None else [bundle.START, bundle.REFINE]
        names += [bundle.POLICY] if on_fault == "prior" else []
        planning = runtime
        if deadline_ms is not None and runtime.priority is not None:
            # One below: who waits for the deadline is woken in time even where all share a single core.
            planning = replace(runtime, priority=runtime.priority - 1)
        graphs = {name: contract.load(described, name, planning) for name in names}
        realtime.prioritise(runtime.priority)
        for graph in graphs.values():
            graph({name: np.zeros(shape, np.float32) for name, shape in graph.shapes.items()})
        max_age_ms = described.control_period_ms if max_age_ms is None else max_age_ms
        return cls(
            *(described, graphs),
            on_fault=on_fault,
            deadline_ms=deadline_ms,
            max_age_ms=max_age_ms,
            priority=planning.priority,
        )

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode: forget plan and action. With a seed, the noise starts again from there."""
        if seed is not None:
            self._random = np.random.default_rng(seed)
        self._followed = self._decision
        self._planned: _Planned | None = None
        self._readings: Arrays | None = None
        self._action: np.ndarray | None = None

    def act(
        self, observation: Any, *, measured_at: float | None = None, released_at: float | None = None
    ) -> np.ndarray:
        """The action for an observation, ``Float32[A]`` in the actuators' units.

        Args:
            observation: as the environment gives it: an array, or a nested mapping or tuple of arrays, whose parts are
                named as in the manifest.
            measured_at: when it was measured, in seconds of ``time.monotonic``; its age is not checked when not given.
            released_at: when this decision was due, on the same clock: the deadline runs from there, so that what a
                loop was woken late is made good. From this call on when not given.

        Raises:
            ControlFault: there is nothing to act on, and ``on_fault`` is ``raise``.
        """
        entered = self._clock()
        self.counters.decisions += 1
        self._decision += 1
        try:
            self._check_age(entered, measured_at)
            self._readings = faults.read(observation, self.bundle.sensors)
            self._action = self._plan(entered if released_at is None else min(entered, released_at))
        except ControlFault as fault:
            self.counters.faults[fault.fault] += 1
            if self._on_fault == "raise":
                raise
            self._action = self._safe_action()
        return self._action.copy()

    @property
    def plan(self) -> np.ndarray | None:
        """The last plan that was ready, ``Float32[H A]`` in [-1, 1]."""
        return None if self._planned is None else self._planned.mean

    @property
    def precision(self) -> str:
        """In which it computes: ``float32``, ``bfloat16`` or ``int8``."""
        computed = next(iter(self._graphs.values())).precision
        return computed if self.bundle.precision == "float32" else self.bundle.precision

    def close(self) -> None:
        """End the planner's thread, if there is one."""
        if self._anytime is not None:
            self._anytime.close()

    def _check_age(self, now: float, measured_at: float | None) -> None:
        if measured_at is None or self._max_age_ms is None:
            return
        age_ms = 1000 * (now - measured_at)
        if not age_ms <= self._max_age_ms:  # NaN is stale too
            raise ControlFault(Fault.STALE, f"the observation is {age_ms:.1f} ms old, allowed are {self._max_age_ms}")

    def _plan(self, begun: float) -> np.ndarray:
        """The first action of a new plan, or what an older one has for this decision."""
        if self._anytime is None:
            result = self._graphs[bundle.PLANNER](self._inputs() | self._draw())
            iterations = self.bundle.iterations
            return self._adopt(self._decision, iterations, result["action"], result["new_mean"], float(result["value"]))
        return self._plan_until(self._anytime, begun + (self._deadline_ms or 0.0) / 1000)

    def _plan_until(self, anytime: Anytime, until: float) -> np.ndarray:
        if anytime.is_free(until):
            self._follow(anytime)  # a plan that came late is a better warm start
            draws = self._draw()
            inputs = self._inputs() | {"noise_policy": draws["noise_policy"]}
            anytime.plan(self._decision, inputs, draws["noise_samples"], until=until)
        action = self._follow(anytime)
        if action is not None:
            return action
        self.counters.late += 1
        if self._planned is None or not len(left := self._planned.ahead(self._decision)):
            raise ControlFault(Fault.LATE, "the plan is late, and no earlier one reaches as far")
        return bundle.actuate(left[0], self.bundle.low, self.bundle.high)

    def _follow(self, anytime: Anytime) -> np.ndarray | None:
        """Take up the latest plan, if it is news; its action, if it is for this decision."""
        latest = anytime.latest
        if latest is None or latest.decision <= self._followed:
            return None
        self._followed = latest.decision
        if latest.decision == self._decision:
            return self._adopt(latest.decision, latest.iterations, latest.action, latest.mean, latest.value)
        if np.isfinite(latest.mean).all():
            self._planned = _Planned(latest.decision, latest.mean)
        return None

    def _adopt(self, decision: int, iterations: int, action: np.ndarray, mean: np.ndarray, value: float) -> np.ndarray:
        if not (np.isfinite(action).all() and np.isfinite(mean).all()):
            raise ControlFault(Fault.PLAN, "the plan is not finite: is the observation one that the agent could meet?")
        self._planned = _Planned(decision, mean)
        self.counters.iterations += iterations
        self.value = value
        return action

    def _inputs(self) -> Arrays:
        """Sensors, and the last plan as the graph wants it: as of the decision before this one."""
        mean = np.zeros((self.bundle.horizon, self.bundle.action_dim), np.float32)
        if self._planned is not None:
            left = self._planned.ahead(self._decision - 1)
            mean[: len(left)] = left
        return {**(self._readings or {}), "previous_mean": mean}

    def _draw(self) -> Arrays:
        draw_noise(self._random, self._noise)
        return self._noise

    def _safe_action(self) -> np.ndarray:
        if self._on_fault == "prior" and self._readings is not None:
            action = self._graphs[bundle.POLICY](self._readings)["action"]
            if np.isfinite(action).all():
                return action
        if self._on_fault != "zero" and self._action is not None:
            return self._action
        return np.clip(np.zeros_like(self.bundle.low), self.bundle.low, self.bundle.high)


def draw_noise(random: np.random.Generator, noise: Arrays) -> None:
    """Fill arrays with standard normal draws, in the order in which they are given."""
    for values in noise.values():
        random.standard_normal(dtype=np.float32, out=values)
