"""Training is killed by SIGKILL, in the middle of what it does or at any moment, and gone on with until it is finished.

The law: it ends with the same bits, the same rows and the same files as if nothing had been.
"""

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tdmpc.scripts.train
from tdmpc import checkpoint, pages, runs
from tdmpc.actor import Actor
from tdmpc.agent import Agent
from tdmpc.compression import records
from tdmpc.compression.records import Journal
from tdmpc.metrics import JsonlSink
from tdmpc.trainer import Trainer
from tdmpc.vector_env import Environments
from tests.attack import processes
from tests.attack.cases import Case, dice, scaled, spread
from tests.scripts.conftest import SMALL
from tests.tdmpc.outcomes import Outcome, deadly, differing, rows_of, timeless

EVENTFUL = [
    *SMALL,
    *("--random-steps=20", "--pretrain-updates=8", "--checkpoint-every=12", "--eval-every=40", "--eval-episodes=2"),
    *("--prune.target=0.6", "--prune.min-width=2", "--prune.events=4", "--prune.criterion=average"),
    *("--prune.end=60", "--prune.snapshot-every=20", "--max-episode-steps=12"),
]
RUNS = {
    "one-lane": ["Pendulum-v1", *EVENTFUL, "--env-steps=80", "--terminates=False"],
    "three-lanes": ["InvertedPendulum-v5", *EVENTFUL, "--env-steps=150", "--num-envs=3", "--terminates=True"],
}
Seam = list[tuple[Any, str]]
SEAMS: dict[str, Seam] = {
    "checkpoint": [(checkpoint, "save_file")],
    "file": [(os, "fsync"), (os, "link"), (os, "replace")],
    "row": [(JsonlSink, "log")],
    "record": [(Journal, "append"), (Trainer, "replace_agent")],
    "step": [(Environments, "step")],
    "update": [(Agent, "update")],
    "plan": [(Actor, "act")],
    "conclusion": [
        (tdmpc.scripts.train, "_conclude"),
        (runs, "write_curve"),
        (runs, "write_json"),
        (tdmpc.scripts.train, "write_report"),
    ],
}
"""Functions before, or in the middle of, which a process is killed."""
LAST = {"plan": 24}
"""Of these seams only so many passes, the last: those of the final evaluation."""
BLOWS = 2
"""Kills at the seams of one case."""
RANDOM_BLOWS = 3


def cases(seed: int, scale: float) -> Iterator[Case]:
    """Each seam of each run, then moments drawn at random."""
    planned = [
        Case(f"{name}-{seam}", partial(at_seams, run, seam, (seed, name, seam)), BLOWS)
        for seam, (name, run) in itertools.product(SEAMS, RUNS.items())
    ]
    yield from spread(planned, scale)
    for number, (name, run) in enumerate(itertools.islice(itertools.cycle(RUNS.items()), scaled(2, scale))):
        yield Case(f"{name}-random-{number}", partial(at_random, run, (seed, number)), RANDOM_BLOWS)


def at_seams(run: list[str], seam: str, words: tuple[object, ...], folder: Path) -> Iterator[str]:
    """Kill a run at passes of a seam that the dice choose, and finish it."""
    passes, chosen = whole(tuple(run)).passes[seam], dice(*words)
    for _ in range(BLOWS):
        least = max(passes - LAST.get(seam, passes), 0)
        patience = chosen.randrange(least, passes)
        ended = go_on(run, folder, partial(die_at, seam, patience)).wait()
        if ended.status != -signal.SIGKILL:
            yield from processes.unlawful(ended, statuses=(0,))
            break  # it came to its end before
        passes = max(passes - patience, 1)
    yield from finish(run, folder)


def at_random(run: list[str], words: tuple[object, ...], folder: Path) -> Iterator[str]:
    """Kill a run at moments that the dice choose, and finish it."""
    seconds, chosen = whole(tuple(run)).seconds, dice(*words)
    for _ in range(RANDOM_BLOWS):
        command = go_on(run, folder)
        ended = command.wait(chosen.uniform(0, seconds))
        if ended.status is not None:
            yield from processes.unlawful(ended, statuses=(0,))
            break
    yield from finish(run, folder)


def go_on(run: list[str], folder: Path, before: Callable[[], None] | None = None) -> processes.Command:
    """Begin a run, or go on with it where it was begun."""
    begun = (folder / "here" / "run" / runs.CONFIG).exists()
    arguments = ["train", "--resume", "run"] if begun else ["train", *run, "--run-dir=run"]
    return processes.start(arguments, folder, before=before or hasten)


def finish(run: list[str], folder: Path) -> Iterator[str]:
    """Bring a run to its end and compare it with one that nothing befell."""
    ended = go_on(run, folder).wait()
    faults = list(processes.unlawful(ended, statuses=(0,)))
    yield from faults
    if not faults:
        yield from whole(tuple(run)).differences(folder / "here" / "run")


# In the process of the command ----------------------------------------------------------------------------------------


def hasten() -> None:
    """Pages of eight rows, so that short runs have many; and no pictures."""
    pages.PAGE = 8
    processes.draw_nothing()


def die_at(seam: str, patience: int) -> None:
    """Have this process die at a pass of a seam."""
    hasten()
    left = [patience]
    for owner, name in SEAMS[seam]:
        setattr(owner, name, deadly(getattr(owner, name), left))


def count_passes(folder: Path) -> None:
    """Have this process write a byte to a file for each pass of a seam."""
    hasten()
    for seam, places in SEAMS.items():
        for owner, name in places:
            setattr(owner, name, counted(getattr(owner, name), folder / seam))


def counted(call: Callable[..., Any], path: Path) -> Callable[..., Any]:
    def wrapped(*args: Any, **options: Any) -> Any:
        with path.open("ab") as file:
            file.write(b"|")
        return call(*args, **options)

    return wrapped


# What a run comes to --------------------------------------------------------------------------------------------------


class Whole:
    """A run that nothing befell."""

    def __init__(self, run: list[str]) -> None:
        with TemporaryDirectory(prefix="tdmpc-attack-") as name:
            folder, started = Path(name), time.monotonic()
            ended = processes.start(
                ["train", *run, "--run-dir=run"], folder, before=partial(count_passes, folder)
            ).wait()
            self.seconds = time.monotonic() - started
            if ended.status != 0:
                raise RuntimeError(f"not even an undisturbed run comes to its end: {ended}")
            self.passes = {seam: (folder / seam).stat().st_size for seam in SEAMS}
            self.outcome = outcome_in(folder / "here" / "run")
            self.files = names_in(folder / "here" / "run")

    def differences(self, folder: Path) -> Iterator[str]:
        """What is not the same in another run."""
        if found := differing(self.outcome, outcome_in(folder)):
            yield f"{len(found)} things are not those of an undisturbed run: {'; '.join(found)[:500]}"
        if other := self.files ^ names_in(folder):
            yield f"files differ from an undisturbed run's: {', '.join(sorted(other))}"


@cache
def whole(run: tuple[str, ...]) -> Whole:
    """An undisturbed run, made once."""
    pages.PAGE = 8  # to read what they write
    return Whole(list(run))


def outcome_in(folder: Path) -> Outcome:
    """All that the run in a folder came to."""
    saved = checkpoint.load(folder)
    events = map(timeless, records.read(folder / records.EVENTS))
    rows = [*rows_of(folder), *events, *records.read(folder / records.IMPORTANCE)]
    return Outcome(saved.tensors, timeless(saved.meta), rows)


def names_in(folder: Path) -> set[str]:
    """What lies in a run folder; of the pages, those that no checkpoint needs: which it needs depends on when it was
    written.
    """
    names = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    listed = [checkpoint._paged(checkpoint._header(path))["files"] for path in folder.glob("*.safetensors")]
    return names - {f"{each}/{page}" for each in pages.FOLDERS for pages_of in listed for page in pages_of}
