"""The controller of a robot: numpy and an ONNX runtime, nothing of this project's training half.

    controller = Controller.load("bundle")
    controller.reset(seed=0)
    action = controller.act(observation)

What the sensors give goes in, what the actuators take comes out: finite and within bounds, whatever went in.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tdmpc.deploy import bundle, connection, contract, faults, plan_runner, realtime
from tdmpc.deploy.agenda import Agenda
from tdmpc.deploy.backends import Graph, Runtime
from tdmpc.deploy.bundle import Arrays, Bundle, BundleError, actuate
from tdmpc.deploy.connection import Contract
from tdmpc.deploy.faults import ControlFault, Counters, Fault, FaultPolicy
from tdmpc.deploy.plan_runner import PlanRunner, draw_noise
from tdmpc.deploy.safety import Callback, Safety, Watch

CAREFREE = Safety()


class Controller:
    """Plans one decision after the other from the observations of a robot.

    A bundle for a delay of ``D`` decisions plans, at decision ``t``, what is applied at ``t + D``, and begins at the
    latent to which the actions that are pending lead. ``act`` returns what is due at ``t``. The first ``D`` actions of
    an episode are the middle of the actuators' range.

    Where a plan is late the one before is followed further; where there is nothing to plan from, or no plan left to
    follow, the fault policy ``on_fault`` decides:

    - ``hold``: the last action again; before there was one, as ``zero``
    - ``zero``: nought in the actuators' units, or the bound nearest to it
    - ``prior``: the policy's action for the last good observation; before there was one, as ``hold``
    - ``raise``: ``ControlFault``

    Faults are logged, and ``safety`` says how they end. A bundle with a limit on the change of an action
    (``max_change``) never has it exceeded, by no fault policy either.
    """

    def __init__(
        self,
        described: Bundle,
        graphs: Mapping[str, Graph],
        *,
        on_fault: FaultPolicy = "hold",
        deadline_ms: float | None = None,
        pipelined: bool = False,
        max_age_ms: float | None = None,
        priority: int | None = None,
        safety: Safety = CAREFREE,
        callback: Callback | None = None,
        executor: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Control with graphs that are loaded already; ``load`` is the usual way.

        Args:
            described: the bundle.
            graphs: by file name: the planner, or start and refine where there is a deadline; the policy where the
                controller needs it on a fault.
            on_fault: see the class.
            deadline_ms: answer within this time, with as many planner iterations as fit; with all when not given.
            pipelined: answer at once, and plan in a thread for what is due after the bundle's delay.
            max_age_ms: an observation measured longer ago is a fault.
            priority: real-time priority of the thread that plans where there is a deadline or a pipeline.
            safety: what happens while faults last and after them.
            callback: called with each fault; what it raises is logged.
            executor: in which a pipeline plans; a thread of its own when not given.
            clock: seconds; ``measured_at`` is on it.
        """
        self.bundle = described
        self.counters = Counters()
        self.value = 0.0
        """Return that the last new plan expects, in the environment's units."""
        self._graphs = graphs
        self._on_fault: FaultPolicy = on_fault
        self._deadline_ms, self._max_age_ms, self._clock = deadline_ms, max_age_ms, clock
        self._watch = Watch(described, safety, callback=callback, clock=clock)
        self._plan_runner: PlanRunner = plan_runner.planned(
            *(graphs, described.iterations),
            deadline=deadline_ms is not None,
            pipelined=pipelined,
            executor=lambda: executor or plan_runner.thread(priority),
            clock=clock,
        )
        self._noise = {name: np.zeros(shape, np.float32) for name, shape in described.noise_shapes.items()}
        self._middle = actuate(np.zeros_like(described.low), described.low, described.high)
        self._agenda = Agenda(described)
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
        pipelined: bool = False,
        max_age_ms: float | None = None,
        safety: Safety = CAREFREE,
        callback: Callback | None = None,
        expect: Contract | Path | str | None = None,
        record: Path | str | None = None,
    ) -> "Controller":
        """Load a bundle, and run it once, so that the first decision is as quick as the others.

        Settings are those of the class. An observation may be as old as the control period where ``max_age_ms`` does
        not say, and ``runtime`` is one thread of ONNX Runtime. ``expect`` is what the robot says of itself, a mapping
        or a file in YAML (``tdmpc.deploy.connection``). ``record`` is an MCAP file for the last decisions, written when
        the controller is closed (``tdmpc.deploy.recording``).

        Raises:
            BundleError: the bundle is damaged, or cannot plan as asked; the robot is not as it expects.
            ImportError: the backend is not installed.
        """
        if deadline_ms is not None and deadline_ms <= 0:
            raise BundleError(f"deadline_ms must be positive, got {deadline_ms}")
        runtime = runtime or Runtime()
        described = bundle.read(folder)
        if expect is not None:
            connection.check(described, expect)
        if pipelined:
            contract.check_pipeline(described, deadline_ms)
        names = [bundle.PLANNER] if deadline_ms is None else [bundle.START, bundle.REFINE]
        names += [bundle.POLICY] if on_fault == "prior" else []
        threaded = runtime.below() if deadline_ms is not None or pipelined else runtime
        graphs = {name: contract.load(described, name, threaded) for name in names}
        realtime.prioritise(runtime.priority)
        for graph in graphs.values():
            graph({name: np.zeros(shape, np.float32) for name, shape in graph.shapes.items()})
        max_age_ms = described.control_period_ms if max_age_ms is None else max_age_ms
        kind = cls if record is None else partial(import_module("tdmpc.deploy.recording").Recording, path=record)
        return kind(
            *(described, graphs),
            on_fault=on_fault,
            deadline_ms=deadline_ms,
            pipelined=pipelined,
            max_age_ms=max_age_ms,
            priority=threaded.priority,
            safety=safety,
            callback=callback,
        )

    def check(self, robot: Contract | Path | str) -> None:
        """Refuse a robot that is not as the bundle expects, by a BundleError that names every difference."""
        connection.check(self.bundle, robot)

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode: forget plans and actions. With a seed, the noise starts again from there.

        A plan that is still being made is not waited for; it is thrown away when it comes.
        """
        if seed is not None:
            self._random = np.random.default_rng(seed)
        self._began = self._decision
        self._readings: Arrays | None = None
        self._action: np.ndarray | None = None
        self._watch.reset()
        first = self._decision + 1
        self._agenda.reset(dict.fromkeys(range(first, first + self.bundle.delay), self._middle))

    def act(
        self, observation: Any, *, measured_at: float | None = None, released_at: float | None = None
    ) -> np.ndarray:
        """The action that is due now, ``Float32[A]`` in the actuators' units.

        Args:
            observation: an array, or a nested mapping or tuple of arrays, named as in the manifest.
            measured_at: when it was measured, in seconds of ``time.monotonic``; its age is not checked when not given.
            released_at: when this decision was due, on the same clock: the deadline runs from there, and not from this
                call, so that what a loop was woken late is made good.

        Raises:
            ControlFault: there is nothing to act on, and ``on_fault`` is ``raise``.
        """
        entered = self._clock()
        self.counters.decisions += 1
        self._decision += 1
        found: list[ControlFault] = []
        try:
            self._take_up()  # a plan that was finished since
        except ControlFault as fault:
            found.append(fault)
        try:
            faults.check_age(entered, measured_at, self._max_age_ms)
            readings = faults.read(observation, self.bundle.sensors)
            self._watch.examine(readings)
            self._readings = readings
            self._plan(entered if released_at is None else min(entered, released_at))
        except ControlFault as fault:
            found.append(fault)
            held = self._committed()[-1] if self.bundle.delay else self._action
            self._agenda.put(self._decision + self.bundle.delay, self._fallback_action(held))
        due, late = self._agenda.take(self._decision)
        self.counters.late += late
        if due is None:
            found.append(ControlFault(Fault.LATE, "the plan is late, and no earlier one reaches as far"))
            due = self._fallback_action(self._action)
        elif late:
            self._watch.note("late", text="a plan is late, and the one before is followed")
        self._action = self._applied(due, faulty=bool(found))
        for fault in found:
            self.counters.faults[fault.fault] += 1
        self._watch.tell(found)
        if found and self._on_fault == "raise":
            raise found[0]
        return self._action.copy()

    @property
    def plan(self) -> np.ndarray | None:
        """The last plan that was ready, ``Float32[H A]`` in [-1, 1]."""
        return None if self._agenda.newest is None else self._agenda.newest.mean

    @property
    def ratio(self) -> float:
        """Part of the action that is the plan's, 0 to 1: below 1 while plans blend in."""
        return self._watch.ratio

    @property
    def precision(self) -> str:
        """In which it computes: ``float32``, ``bfloat16`` or ``int8``."""
        computed = next(iter(self._graphs.values())).precision
        return computed if self.bundle.precision == "float32" else self.bundle.precision

    def close(self) -> None:
        """End the planner's thread, if there is one."""
        self._plan_runner.close()

    def _plan(self, begun: float) -> None:
        """Take up what has been planned, and plan for the decision whose action follows those that are pending."""
        until = begun + (self._deadline_ms or 0.0) / 1000
        free = self._plan_runner.is_free(until)
        self._take_up()  # a plan that came late is a better warm start
        if free:
            draw = partial(draw_noise, self._random, self._noise)
            self._plan_runner.plan(self._decision + self.bundle.delay, self._inputs(), draw, until=until)
            self._take_up()

    def _take_up(self) -> None:
        """Take up the newest plan, if there is one of this episode."""
        made = self._plan_runner.finished()
        if made is None or made.decision - self.bundle.delay <= self._began:
            return
        if not (np.isfinite(made.action).all() and np.isfinite(made.mean).all()):
            if made.decision < self._decision:
                return  # late: nobody waits for it any more
            raise ControlFault(Fault.PLAN, "the plan is not finite: is the observation one that the agent could meet?")
        self._agenda.add(made)
        if made.decision >= self._decision:
            self.counters.iterations += made.iterations
            self.value = made.value

    def _applied(self, due: np.ndarray, *, faulty: bool) -> np.ndarray:
        return self._watch.applied(due, self._action, faulty=faulty)

    def _committed(self) -> list[np.ndarray]:
        """The action before this decision, and those that are applied until what is decided now is."""
        return self._agenda.committed(self._middle if self._action is None else self._action, self._decision)

    def _inputs(self) -> Arrays:
        """Sensors, the last plan as the graph wants it, as of the decision before, and the actions until then."""
        mean = self._agenda.warm_start(self._decision + self.bundle.delay - 1)
        inputs = {**(self._readings or {}), "previous_mean": mean}
        if self.bundle.takes_committed:
            inputs[bundle.COMMITTED] = bundle.deactuate(np.stack(self._committed()), self.bundle.low, self.bundle.high)
        return inputs

    def _fallback_action(self, held: np.ndarray | None) -> np.ndarray:
        return faults.fallback_action(self._on_fault, held, self._watch.nought, self._prior)

    def _prior(self) -> np.ndarray | None:
        """The policy's action for the last readings that were good."""
        return None if self._readings is None else self._graphs[bundle.POLICY](self._readings)["action"]
