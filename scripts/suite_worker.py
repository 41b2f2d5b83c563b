"""What a worker of a suite does: bring one run to its end, and take the steps behind it."""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tdmpc import runs
from tdmpc.scripts.suite_spec import Run

TAIL = 15
"""Lines of its log that are shown of a run that failed."""


def carry_out(run: Run, steps: Mapping[str, Sequence[str]], source_fault: str | None) -> str:
    """Bring a run to its end and take the steps behind it, whatever of this is not done yet.

    Args:
        run: where it stands is read from its folder.
        steps: commands by name, with ``{run}`` for the folder.
        source_fault: of the run that it prunes.

    Returns:
        What went wrong; empty where nothing did.
    """
    try:
        return _carried_out(run, steps, source_fault)
    except OSError as error:  # its log cannot be written
        return str(error)


def _carried_out(run: Run, steps: Mapping[str, Sequence[str]], source_fault: str | None) -> str:
    if source_fault or (run.source and not (run.source / runs.SUMMARY).exists()):
        return f"{run.source} is not there to be pruned: it has not come to its end"
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    if not (run.folder / runs.SUMMARY).exists():
        started = (run.folder / runs.CONFIG).exists()
        command = ("train", "--resume", str(run.folder)) if started else run.start
        fault = _call(command, run, None)
        if fault:
            return fault
    for name, options in steps.items():
        output = run.folder / f"{name}.json"
        if not output.exists():
            fault = _call([option.replace("{run}", str(run.folder)) for option in options], run, output)
            if fault:
                return fault
    return ""


def _call(command: Sequence[str], run: Run, output: Path | None) -> str:
    """A sub-command in this process: whoever kills the worker kills it. What it prints is kept."""
    from tdmpc.scripts.main import main as tdmpc

    part = log_of(run) if output is None else output.with_suffix(".part")
    with _printing_into(log_of(run), part):
        try:
            code = tdmpc(list(command))
        except Exception:  # a fault of ours; in the log with all that is known of it
            traceback.print_exc()
            code = 1
    if code:
        if output is not None:
            part.unlink(missing_ok=True)
        return f"'tdmpc {' '.join(command)}' ended with status {code}; its log is {log_of(run)}"
    if output is not None:
        os.replace(part, output)  # it appears when it is whole
    return ""


@contextlib.contextmanager
def _printing_into(complaints: Path, output: Path) -> Iterator[None]:
    """Standard error goes to the end of one file, standard output to another or to the same."""
    _flush()
    before = os.dup(1), os.dup(2)
    with complaints.open("ab") as log_file, output.open("ab" if output == complaints else "wb") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(log_file.fileno(), 2)
        try:
            yield
        finally:
            _flush()
            for number, descriptor in zip((1, 2), before, strict=True):
                os.dup2(descriptor, number)
                os.close(descriptor)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def log_of(run: Run) -> Path:
    """What its commands complain of."""
    return run.folder.with_name(f"{run.folder.name}.log")


def tail(path: Path) -> str:
    """The last lines of a log, each one further in."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return "\n".join(f"    {line}" for line in lines[-TAIL:])
