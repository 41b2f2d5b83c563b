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
from tests.deploy.conftest import MANIFEST, PLAN, Scripted, planned
from tests.deploy.test_planning import Inline

COMPILER = shutil.which("c++")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")]
PLANS = [PLAN, 0.5 * PLAN, -PLAN, 0.25 * PLAN, PLAN[::-1].copy()]
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
    files = [sources / "bundle.cpp", sources / "controller.cpp", Path(__file__).with_name("script.cpp")]
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
    described: bundle.Bundle, plans: list[np.ndarray], script: list[str], pipelined: bool
) -> list[list[float]]:
    """Actions, late plans, faults, and what the planner was given last."""
    executor, planner = Inline(), Scripted(lambda _: planned(plans[(len(planner.given) - 1) % len(plans)]))
    ahead: dict[str, Any] = {"pipelined": True, "executor": executor} if pipelined else {}
    controller = Controller(described, {bundle.PLANNER: planner}, **ahead)
    seen, lines = {"joint": [0.5, 0.5], "body": {"height": 0.5}}, []
    for word in script:
        if word in ("act", "miss"):
            action = controller.act(seen if word == "act" else None)
            counted = [controller.counters.late, sum(controller.counters.faults.values())]
            given = [planner.given[-1].get(name, np.zeros(0)).ravel() for name in SEEN] if planner.given else []
            lines.append([*action.tolist(), *counted, *np.concatenate([np.zeros(0), *given]).tolist()])
        elif word == "reset":
            executor.release()  # the one in C++ waits for its plan
            controller.reset(seed=0)
        else:
            executor.release()
    return lines


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
    (tmp_path / bundle.MANIFEST).write_text(json.dumps(manifest))
    numbers = [str(number) for plan in plans for number in plan.ravel().tolist()]
    words = [str(program), str(tmp_path), "pipelined" if pipelined else "waiting", *numbers]
    done = subprocess.run(words, input="\n".join(script), capture_output=True, text=True, check=True)
    found = [[float(number) for number in line.replace("|", " ").split()] for line in done.stdout.splitlines()]
    expected = in_python(bundle.read(tmp_path), plans, script, pipelined)
    assert found == [pytest.approx(line, abs=1e-5) for line in expected]
