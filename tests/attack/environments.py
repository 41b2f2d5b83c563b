"""Odd environments, by hand and at random, are trained on, gone on with and evaluated.

The law: each step of that ends well, with finite numbers, or with status 2 and one line that names the environment and
what helps. Nothing hangs.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tdmpc import checkpoint, runs
from tdmpc.metrics import read_rows
from tests.attack import odd, processes
from tests.attack.cases import Case, scaled, spread
from tests.attack.processes import Ended, error_of, unlawful
from tests.scripts.conftest import SMALL

TRAINED = [*SMALL, "--env-steps=60", "--random-steps=20", "--pretrain-updates=4", "--eval-episodes=1"]
FILMED = {"NoRender", "EmptyRender", "GreyRender", "Sled"}
THROWN = 20
"""Random environments."""
HELP = re.compile(
    r"\.py:\d+\)|--[a-z-]+|Choose|State|Make|Give|must|Everything is in|go without|leave them out|register", re.DOTALL
)
"""Where in a program something failed, or what can be done."""


def cases(seed: int, scale: float) -> Iterator[Case]:
    """Each environment made by hand, then those made at random."""
    named = [Case(name, partial(life, f"tests.attack.odd:{name}-v0", name)) for name in odd.NAMES]
    yield from spread(named, scale)
    for number in range(scaled(THROWN, scale)):
        thrown = 1000 * seed + number
        yield Case(
            f"dice-{thrown}", partial(life, f"Dice-{thrown}-v0", f"Dice-{thrown}", before=partial(odd.throw, thrown))
        )


def life(env: str, name: str, folder: Path, *, before: Callable[[], Any] | None = None) -> Iterator[str]:
    """Train on an environment; where that ends well, go on and evaluate."""
    film = ["--video"] if name in FILMED else []
    run = folder / "here" / "run"

    def tried(*arguments: str) -> tuple[Ended, list[str]]:
        ended = processes.start([*arguments], folder, before=before).wait()
        return ended, [f"{arguments[0]}: {what}" for what in (*unlawful(ended), *unhelpful(ended, name))]

    ended, faults = tried("train", env, *TRAINED, *film, "--run-dir=run")
    yield from faults
    if run.exists() and not (run / runs.CONFIG).exists():
        yield "it leaves a folder that is no run"
    if ended.status != 0:
        return
    yield from infinite(run)
    for follow in (["train", "--resume=run", "--env-steps=75"], ["evaluate", "run", "--episodes=2", "--json"]):
        yield from tried(*follow)[1]
    yield from infinite(run)


def unhelpful(ended: Ended, name: str) -> Iterator[str]:
    """What the line of a command that failed does not tell."""
    said = error_of(ended)
    if ended.status == 2 and f"{name}-v0" not in said:
        yield f"its error does not name the environment: {said}"
    if ended.status == 2 and not HELP.search(said):
        yield f"its error does not help: {said}"


def infinite(run: Path) -> Iterator[str]:
    """What of a finished run is not finite."""
    rows = [*read_rows(run / runs.METRICS), json.loads((run / runs.SUMMARY).read_text())]
    for row in rows:
        for name, value in row.items():
            if value is None or (isinstance(value, float) and not math.isfinite(value)):
                yield f"{name} is {value} in a row of step {row['env_steps']}"
    tensors = checkpoint.load(run, prefixes=("agent/",)).tensors
    yield from (f"{name} is not finite" for name, tensor in tensors.items() if not tensor.isfinite().all())
