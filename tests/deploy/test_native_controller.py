"""Laws of the controller in C++: it decides as the one in Python does, whatever is late, missing or begun anew."""

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from tdmpc import deploy
from tdmpc.deploy import bundle, plan_runner
from tdmpc.deploy.controller import Controller
from tdmpc.deploy.faults import ControlFault
from tdmpc.deploy.safety import Safety
from tests.conftest import Shared
from tests.deploy.conftest import ITERATIONS, MANIFEST, PLAN, Scripted, planned
from tests.deploy.test_plan_runner import Inline

COMPILER = shutil.which("c++")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")]
PLANS = [PLAN, 0.5 * PLAN, -PLAN, 0.25 * PLAN, PLAN[::-1].copy()]
READINGS = {"act": 0.5, "move": 0.5, "far": 1e9, "nan": np.nan, "old": 0.5, "miss": 0.0, "late": 0.5, "some": 0.5}
"""What all sensors give, by the word of a script."""
DEADLINE_S = 100_000.0
SINCE_S = {"late": DEADLINE_S, "some": DEADLINE_S - 2500.0}
"""How long ago a decision was due, by the word of a script. Only iterations move the clock, by 1,000 s each."""
QUICK = ["act", "release"] * 4
SCRIPTS = {
    "quick": QUICK * 2,
    "late": [*QUICK, "act", "act", "act", "release", *QUICK],
    "late beyond the plan": ["act", "release", *["act"] * 6, "release", *QUICK],
    "late from the start": ["act", "act", "act", "release", *QUICK],
    "an observation missed": [*QUICK, "miss", "act", "release", "miss", "miss", *QUICK],
    "missed from the start": ["miss", "miss", *QUICK],
    "an episode anew": [*QUICK, "reset", *QUICK, "reset", "miss", *QUICK],
}


@pytest.fixture(scope="session")
def program(shared: Shared) -> Path:
    """The controller with a scripted planner, compiled once."""
    return shared("scripted", lambda folder: build(folder / "script")) / "script"


def build(out: Path) -> None:
    sources = Path(deploy.__file__).parent / "native"
    wheel = find_spec("nlohmann_json")
    headers = ["-isystem", str(Path(wheel.origin).parent / "include")] if wheel and wheel.origin else []
    files = [
        *(sources / f"{name}.cpp" for name in ("bundle", "contract", "controller", "plan_runner", "safety")),
        Path(__file__).with_name("script.cpp"),
    ]
    as_one = "".join(f'#include "{file}"\n' for file in files)  # reads the JSON library once: a third of the time
    warnings = ["-Wall", "-Wextra", "-Werror"]
    options = ["-std=c++17", "-pthread", *warnings, f"-I{sources}", *headers]
    subprocess.run([str(COMPILER), *options, "-x", "c++", "-", "-o", out], input=as_one, text=True, check=True)


class Gated(Scripted):
    """Waits to be let through before it looks at what it was given."""

    def __init__(self, answer: Callable[[dict[str, np.ndarray]], dict[str, Any]]) -> None:
        super().__init__(answer)
        self.opened = Event()

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert self.opened.wait(60)
        return super().__call__(inputs)


class Robot:
    """Planners that a script makes wait, fail or take long, on a clock of their own."""

    def __init__(self, plans: list[np.ndarray], mode: str) -> None:
        self.plans, self.turn, self.now = plans, 0, 0.0
        self.fails = self.slow = False
        self.executor = Inline() if mode == "pipelined" else plan_runner.thread(None)
        self.planner, self.refine = Scripted(lambda _: self._plan()), Scripted(lambda _: self._refine())
        self.start = Gated(lambda inputs: {"mean": inputs["previous_mean"], "std": 2 * np.ones_like(PLAN)})
        self.start.opened.set()

    def _plan(self) -> dict[str, Any]:
        if self.fails:
            self.fails = False
            raise RuntimeError("the accelerator is gone")
        self.turn += 1
        return planned(self.plans[(self.turn - 1) % len(self.plans)])

    def _refine(self) -> dict[str, Any]:
        self.now += 2000 if self.slow else 1000
        self.slow = False
        return self._plan()

    def release(self, controller: Controller) -> None:
        self.start.opened.set()
        if isinstance(self.executor, Inline):
            self.executor.release()
        assert controller._plan_runner.is_free(self.now + 60)

    def given(self) -> list[float]:
        """What the planner was given last, and whether an iteration was given the noise of the one before."""
        seen = [
            given.get(name, np.zeros(0)).ravel()
            for graph in (self.planner, self.start, self.refine)
            for given in graph.given[-1:]
            for name in (("mean", "std") if graph is self.refine else ("previous_mean", "committed"))
        ]
        drawn = [given["noise"] for given in self.refine.given[-2:]]
        same = [float(len(drawn) == 2 and np.array_equal(*drawn))] if drawn else []
        return [*np.concatenate([np.zeros(0), *seen]).tolist(), *same]


def in_python(
    described: bundle.Bundle, plans: list[np.ndarray], script: list[str], mode: str, on_fault: Any, **safety: Any
) -> list[list[float]]:
    """Actions, late plans, how far plans have come in, faults, and what the planner was given last."""
    robot = Robot(plans, mode)
    graphs = {bundle.PLANNER: robot.planner, bundle.START: robot.start, bundle.REFINE: robot.refine}
    settings: dict[str, Any] = {"on_fault": on_fault, "safety": Safety(**safety), "clock": lambda: robot.now}
    controller = Controller(
        described,
        {**graphs, bundle.POLICY: Scripted(lambda _: {"action": [1.25, 1.75]})},
        max_age_ms=20.0,
        deadline_ms=1000 * DEADLINE_S if mode == "deadline" else None,
        pipelined=mode == "pipelined",
        executor=robot.executor,
        **settings,
    )
    lines, turn = [], 0
    for word in script:
        if word in READINGS:
            turn += 1
            value = READINGS[word] + turn / 1024 * (word == "move")
            seen = None if word == "miss" else {"joint": [value, value], "body": {"height": value}}
            age, since = 0.021 * (word == "old"), SINCE_S.get(word, 0.0)
            try:
                action = controller.act(seen, measured_at=robot.now - age, released_at=robot.now - since)
            except ControlFault:
                action = np.array([-99.0, -99.0])
            counted = [controller.counters.late, controller.ratio, *controller.counters.faults.values()]
            lines.append([*action.tolist(), *counted, *robot.given()])
        elif word == "reset":
            robot.release(controller)  # the one in C++ waits for its plan
            controller.reset(seed=0)
        elif word == "hold":
            robot.start.opened.clear()
        elif word == "fail":
            robot.fails = True
        elif word == "slow":
            robot.slow = True
        else:
            robot.release(controller)
    controller.close()
    return lines


def compared(
    program: Path,
    folder: Path,
    plans: list[np.ndarray],
    script: list[str],
    manifest: dict[str, Any],
    mode: str,
    on_fault: str = "hold",
    **safety: Any,
) -> None:
    """Both controllers decide alike, decision by decision."""
    (folder / bundle.MANIFEST).write_text(json.dumps(manifest))
    numbers = [str(number) for plan in plans for number in plan.ravel().tolist()]
    told = {name: value[0] if isinstance(value, tuple) else value for name, value in safety.items()}
    settings = [f"{name}={value}" for name, value in {"on_fault": on_fault, **told}.items()]
    words = [str(program), str(folder), mode, *settings, *numbers]
    done = subprocess.run(words, input="\n".join(script), capture_output=True, text=True, check=True, timeout=60)
    found = [[float(number) for number in line.replace("|", " ").split()] for line in done.stdout.splitlines()]
    expected = in_python(bundle.read(folder), plans, script, mode, on_fault, **safety)
    assert found == [pytest.approx(line, abs=1e-5, nan_ok=True) for line in expected]


def delayed(delay: int, *, max_change: float | None = None, iterations: int = ITERATIONS) -> dict[str, Any]:
    """The manifest of a bundle for a delay."""
    manifest = json.loads(json.dumps(MANIFEST))
    manifest["environment"]["delay"] = delay
    manifest["planner"] |= {"max_change": max_change, "iterations": iterations}
    inputs = manifest["golden"]["inputs"]
    if delay or max_change:
        inputs["committed"] = [delay + 1, 2]
    for noise in (inputs, manifest["noise"]["inputs"]):
        noise["noise_samples"][0] = iterations
    return manifest


FAULTY = [
    *["move", "release"] * 4,
    "far",
    "nan",
    "miss",
    "old",
    "far",
    "far",
    *["move", "release"] * 5,
    *["act", "release"] * 5,
]


@pytest.mark.parametrize(("delay", "mode"), [(0, "waiting"), (1, "pipelined"), (0, "deadline")])
@pytest.mark.parametrize("on_fault", ["hold", "zero", "prior", "raise"])
@pytest.mark.parametrize(
    "safety",
    [
        {},
        {"hold_ms": 40.0},
        {"hold_ms": 0.0, "on_hold_timeout": (2.0, 2.0), "blend_ms": 70.0},
        {"range_margin": 0.5, "stuck_ms": 60.0},
        {"range_margin": 0.0, "stuck_ms": 0.0, "hold_ms": 60.0, "blend_ms": 100.0},
    ],
    ids=str,
)
def test_it_is_as_safe_as_the_one_in_python(
    program: Path, tmp_path: Path, delay: int, mode: str, on_fault: str, safety: dict[str, Any]
) -> None:
    """Under each fault policy and setting of ``Safety`` the actions, the kinds of faults and the blend-in ratio are the
    same, decision by decision, among faults of all kinds.
    """
    manifest = delayed(delay)
    manifest["observation"][0] |= {"seen_low": [-1.0, 0.25], "seen_high": [1.0, 0.75], "repeats": False}
    compared(program, tmp_path, PLANS, FAULTY, manifest, mode, on_fault, **safety)


@pytest.mark.parametrize("broken", [False, True], ids=["finite", "not finite"])
@pytest.mark.parametrize("max_change", [None, 0.2])
@pytest.mark.parametrize(
    ("delay", "mode"),
    [(0, "waiting"), (1, "waiting"), (1, "pipelined"), (2, "pipelined"), (0, "deadline"), (1, "deadline")],
)
@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_it_decides_as_the_one_in_python(
    program: Path,
    tmp_path: Path,
    script: list[str],
    delay: int,
    mode: str,
    max_change: float | None,
    broken: bool,
) -> None:
    """Actions, late plans, faults and what the planner was given last are the same, decision by decision, though a plan
    be not finite.
    """
    plans = [*PLANS[:2], np.full_like(PLAN, np.nan), *PLANS[3:]] if broken else PLANS
    compared(program, tmp_path, plans, script, delayed(delay, max_change=max_change), mode)


TIMED = {
    "with enough time every iteration is made": ["act", "act", "act"],
    "no iteration is begun that would not be over": ["act", "some", "some", "act"],
    "an iteration that was slow is feared for a while": ["slow", *["some"] * 6, "act"],
    "a late plan does not hold the robot up": ["act", "hold", *["late"] * 4, "release", "act", "act"],
    "what came late is the next warm start": ["act", "hold", "late", "release", "some", "act"],
    "late from the start is a fault": ["hold", "late", "late", "release", "act"],
    "a plan of the episode before is not followed": ["act", "hold", "late", "release", "reset", "act", "act"],
}


@pytest.mark.parametrize("broken", [False, True], ids=["finite", "not finite"])
@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("script", TIMED.values(), ids=TIMED)
def test_it_keeps_a_deadline_as_the_one_in_python(
    program: Path, tmp_path: Path, script: list[str], delay: int, broken: bool
) -> None:
    """Within any time that is left it makes the same iterations, each from where the one before ended and on its own
    noise, and decides the same, whether a plan comes late or is not finite.
    """
    plans = [np.float32(0.9**number) * PLAN for number in range(30)]
    if broken:
        plans[5:7] = [np.full_like(PLAN, np.nan)] * 2
    compared(program, tmp_path, plans, script, delayed(delay, iterations=5), "deadline")


@pytest.mark.parametrize("on_fault", ["hold", "zero", "raise"])
@pytest.mark.parametrize(("delay", "mode"), [(1, "pipelined"), (0, "deadline"), (1, "deadline")])
def test_what_the_thread_throws_is_a_fault(program: Path, tmp_path: Path, delay: int, mode: str, on_fault: str) -> None:
    """An error of the runtime in the planner's thread, in time or late, is a fault, and the next decision plans."""
    late = ["hold", "late", "fail", "release"] if mode == "deadline" else []
    script = ["act", "release", "fail", "act", "release", *["act", "release"] * 2, *late, *["act", "release"] * 2]
    compared(program, tmp_path, PLANS, script, delayed(delay), mode, on_fault)
