"""Laws of the controller in C++: it decides as the one in Python does, whatever is late, missing or begun anew."""

import json
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tdmpc import deploy
from tdmpc.deploy import bundle
from tdmpc.deploy.controller import Controller
from tdmpc.deploy.faults import ControlFault
from tdmpc.deploy.safety import Safety
from tests.deploy.conftest import MANIFEST, PLAN, Scripted, planned
from tests.deploy.test_planning import Inline

COMPILER = shutil.which("c++")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")]
PLANS = [PLAN, 0.5 * PLAN, -PLAN, 0.25 * PLAN, PLAN[::-1].copy()]
READINGS = {"act": 0.5, "move": 0.5, "far": 1e9, "nan": np.nan, "old": 0.5, "miss": 0.0}
"""What all sensors give, by the word of a script."""
SEEN = ("previous_mean", "committed")
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
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The controller with a scripted planner, compiled once."""
    out, sources = tmp_path_factory.mktemp("native") / "script", Path(deploy.__file__).parent / "native"
    wheel = find_spec("nlohmann_json")
    headers = ["-isystem", str(Path(wheel.origin).parent / "include")] if wheel and wheel.origin else []
    files = [
        *(sources / f"{name}.cpp" for name in ("bundle", "controller", "safety")),
        Path(__file__).with_name("script.cpp"),
    ]
    as_one = "".join(f'#include "{file}"\n' for file in files)  # reads the JSON library once: a third of the time
    warnings = ["-Wall", "-Wextra", "-Werror"]
    command = [
        str(COMPILER),
        "-std=c++17",
        "-pthread",
        *warnings,
        f"-I{sources}",
        *headers,
        "-x",
        "c++",
        "-",
        "-o",
        out,
    ]
    subprocess.run(command, input=as_one, text=True, check=True)
    return out


def in_python(
    described: bundle.Bundle, plans: list[np.ndarray], script: list[str], pipelined: bool, on_fault: Any, **safety: Any
) -> list[list[float]]:
    """Actions, late plans, how far plans have come in, faults, and what the planner was given last."""
    executor, planner = Inline(), Scripted(lambda _: planned(plans[(len(planner.given) - 1) % len(plans)]))
    ahead: dict[str, Any] = {"pipelined": True, "executor": executor} if pipelined else {}
    graphs = {bundle.PLANNER: planner, bundle.POLICY: Scripted(lambda _: {"action": [1.25, 1.75]})}
    settings: dict[str, Any] = {"on_fault": on_fault, "safety": Safety(**safety), "clock": lambda: 0.0, **ahead}
    controller = Controller(described, graphs, max_age_ms=20.0, **settings)
    lines, turn = [], 0
    for word in script:
        if word in READINGS:
            turn += 1
            value = READINGS[word] + turn / 1024 * (word == "move")
            seen = None if word == "miss" else {"joint": [value, value], "body": {"height": value}}
            try:
                action = controller.act(seen, measured_at=-0.021 if word == "old" else 0.0)
            except ControlFault:
                action = np.array([-99.0, -99.0])
            counted = [controller.counters.late, controller.ratio, *controller.counters.faults.values()]
            given = [planner.given[-1].get(name, np.zeros(0)).ravel() for name in SEEN] if planner.given else []
            lines.append([*action.tolist(), *counted, *np.concatenate([np.zeros(0), *given]).tolist()])
        elif word == "reset":
            executor.release()  # the one in C++ waits for its plan
            controller.reset(seed=0)
        else:
            executor.release()
    return lines


def compared(
    program: Path,
    folder: Path,
    plans: list[np.ndarray],
    script: list[str],
    manifest: dict[str, Any],
    pipelined: bool,
    on_fault: str = "hold",
    **safety: Any,
) -> None:
    """Both controllers decide alike, decision by decision."""
    (folder / bundle.MANIFEST).write_text(json.dumps(manifest))
    numbers = [str(number) for plan in plans for number in plan.ravel().tolist()]
    told = {name: value[0] if isinstance(value, tuple) else value for name, value in safety.items()}
    settings = [f"{name}={value}" for name, value in {"on_fault": on_fault, **told}.items()]
    words = [str(program), str(folder), "pipelined" if pipelined else "waiting", *settings, *numbers]
    done = subprocess.run(words, input="\n".join(script), capture_output=True, text=True, check=True, timeout=60)
    found = [[float(number) for number in line.replace("|", " ").split()] for line in done.stdout.splitlines()]
    expected = in_python(bundle.read(folder), plans, script, pipelined, on_fault, **safety)
    assert found == [pytest.approx(line, abs=1e-5) for line in expected]


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


@pytest.mark.parametrize(("delay", "pipelined"), [(0, False), (1, True)])
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
    program: Path, tmp_path: Path, delay: int, pipelined: bool, on_fault: str, safety: dict[str, Any]
) -> None:
    """Under each fault policy and setting of ``Safety`` the actions, the kinds of faults and the blend-in ratio are the
    same, decision by decision, among faults of all kinds.
    """
    manifest = json.loads(json.dumps(MANIFEST))
    manifest["environment"]["delay"] = delay
    if delay:
        manifest["golden"]["inputs"]["committed"] = [delay + 1, 2]
    manifest["observation"][0] |= {"seen_low": [-1.0, 0.25], "seen_high": [1.0, 0.75], "repeats": False}
    compared(program, tmp_path, PLANS, FAULTY, manifest, pipelined, on_fault, **safety)


@pytest.mark.parametrize("broken", [False, True], ids=["finite", "not finite"])
@pytest.mark.parametrize("max_change", [None, 0.2])
@pytest.mark.parametrize(("delay", "pipelined"), [(0, False), (1, False), (1, True), (2, True)])
@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_it_decides_as_the_one_in_python(
    program: Path,
    tmp_path: Path,
    script: list[str],
    delay: int,
    pipelined: bool,
    max_change: float | None,
    broken: bool,
) -> None:
    """Actions, late plans, faults and what the planner was given last are the same, decision by decision, though a plan
    be not finite.
    """
    plans = [*PLANS[:2], np.full_like(PLAN, np.nan), *PLANS[3:]] if broken else PLANS
    manifest = json.loads(json.dumps(MANIFEST))
    manifest["environment"]["delay"], manifest["planner"]["max_change"] = delay, max_change
    if delay or max_change:
        manifest["golden"]["inputs"]["committed"] = [delay + 1, 2]
    compared(program, tmp_path, plans, script, manifest, pipelined)
