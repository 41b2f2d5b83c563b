"""The command line in processes of their own: forks of one that has imported everything, so that they start at once."""

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

SERVER = multiprocessing.get_context("forkserver")
PRELOADED = [
    "tests.attack.odd",
    "tdmpc.scripts.train",
    "tdmpc.scripts.prune",
    "tdmpc.scripts.sparsity",
    "tdmpc.scripts.validate",
    "tdmpc.scripts.latency",
    "torch._dynamo",
]
MEMORY = 24 << 30
"""Address space of a command in bytes: what asks for more gets an error and takes nothing from its neighbours."""
HANGS = 300.0
"""Seconds after which a command that should have come to its end is taken to hang."""


class Ended(NamedTuple):
    """What came of a command."""

    status: int | None
    """None where it was still running when its time was over; negative where a signal ended it."""
    out: str
    err: str


class Command(NamedTuple):
    """A command that runs, in ``folder/here``; what it prints goes to files beside that."""

    process: multiprocessing.Process
    folder: Path

    def wait(self, seconds: float = HANGS) -> Ended:
        """Its end, or None for a status and SIGKILL when the time is over."""
        status = self.process.exitcode if self.ends_within(seconds) else None
        if status is None:
            self.kill()
        texts = [(self.folder / name).read_text(errors="replace") for name in ("out", "err")]
        return Ended(status, *texts)

    def ends_within(self, seconds: float) -> bool:
        """Wait for its end, at most so long; while somebody has it pause, no time goes by."""
        while self.process.exitcode is None and seconds > 0:
            self.process.join(min(seconds, 0.5))
            seconds -= 0 if self.is_stopped() else 0.5
        return self.process.exitcode is not None

    def is_stopped(self) -> bool:
        """Whether somebody has it pause, where the system tells."""
        with suppress(OSError):
            return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        return False

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.join()


def start(arguments: list[str], folder: Path, *, before: Callable[[], None] | None = None) -> Command:
    """Start ``tdmpc`` with these arguments in ``folder/here``; ``before`` is called in its process first."""
    (folder / "here").mkdir(parents=True, exist_ok=True)
    for name in ("out", "err"):
        (folder / name).write_bytes(b"")
    SERVER.set_forkserver_preload(["tests.conftest", *PRELOADED])
    process = SERVER.Process(target=_command, args=(arguments, folder, before), daemon=True)
    process.start()
    return Command(process, folder)


def run(arguments: list[str], folder: Path, seconds: float = HANGS) -> Ended:
    """Run ``tdmpc`` with these arguments in ``folder/here`` to its end."""
    return start(arguments, folder).wait(seconds)


def draw_nothing() -> None:
    """Have the command in this process end without pictures: they take as long as all the rest."""
    import tdmpc.scripts.train

    tdmpc.scripts.train.write_report = lambda folder: []


def _command(arguments: list[str], folder: Path, before: Callable[[], None] | None) -> None:
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_APPEND), number)
    os.chdir(folder / "here")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from tdmpc.scripts.main import main

    if before is not None:
        before()
    sys.exit(main(arguments))


def unlawful(ended: Ended, *, statuses: tuple[int, ...] = (0, 2)) -> Iterator[str]:
    """The law of every command: an allowed status, no traceback, and one line of error where it is 2."""
    said = " | ".join(ended.err.strip().splitlines()[-3:])[-600:]
    if ended.status is None:
        yield f"it was still running when its time was over; last it said: {said}"
    elif ended.status < 0:
        yield f"{signal.Signals(-ended.status).name} ended it; last it said: {said}"
    elif ended.status not in statuses:
        yield f"its exit status is {ended.status}, and it said: {said}"
    elif "Traceback (most recent call last)" in ended.err + ended.out:
        yield f"it shows a traceback: {said}"
    elif ended.status == 2 and not error_of(ended):
        yield f"it fails without one line of error: {said or 'nothing'}"


def error_of(ended: Ended) -> str:
    """The one line with which a command failed, empty where there is none or several; tyro draws a box around its."""
    lines = ended.err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if len(errors) == 1 and lines[-1] == errors[0]:
        return errors[0].removeprefix("error: ")
    boxed = [line.strip("│ ") for line in lines if line.startswith("│")]
    return " ".join(boxed) if boxed and not errors else ""
