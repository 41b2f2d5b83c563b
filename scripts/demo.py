"""``tdmpc demo``: from nothing to a pruned and a dense agent, report, films and controllers, in minutes on a CPU."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tyro

from tdmpc import runs
from tdmpc.config import ConfigError
from tdmpc.runs import RunError
from tdmpc.scripts import export, latency, ranges, report, train, validate
from tdmpc.scripts.evaluate import show
from tdmpc.scripts.report.command import TIMES

log = logging.getLogger("tdmpc")

ENV = "cartpole-swingup"
ENV_STEPS = 24_000
TARGET = 0.75
"""Share of a plan's multiply-adds that pruning removes."""


@dataclass(frozen=True)
class DemoArgs:
    """Train two agents on cartpole-swingup, and prune one of them while it trains. Export, check and time both."""

    run_dir: Path = Path("runs/demo")
    """New folder for the pruned run. The folder of the dense run has the same name with ``-dense`` behind it."""
    seed: int = 0
    """Of both trainings."""
    threads: int = 0
    """Threads of the tensor library for each of the two trainings; 0 for half of the cores."""


def main(arguments: list[str]) -> int:
    """Train both side by side, then export, validate, time, report."""
    args = tyro.cli(DemoArgs, args=arguments, prog="tdmpc demo")
    ranges.check(args, ConfigError, not_negative=["seed", "threads"])
    folder = args.run_dir if not args.run_dir.exists() else runs.unused(args.run_dir.parent, args.run_dir.name)
    dense = runs.unused(folder.parent, f"{folder.name}-dense")
    threads = args.threads or max(len(os.sched_getaffinity(0)) // 2, 1)
    options = f"{ENV} --env-steps {ENV_STEPS} --seed {args.seed} --threads {threads} --video --run-dir".split()
    with _beside(["train", *options, str(dense)], log_file=dense.with_name(f"{dense.name}.log")):
        train.main([*options, str(folder), "--prune.target", str(TARGET)])
    status = _deploy([folder, dense])
    report.main([str(folder), "--dense", str(dense)])
    for run in (folder, dense):
        show(json.loads((run / runs.SUMMARY).read_text()), title=str(run))
    return status


@contextmanager
def _beside(command: Sequence[str], *, log_file: Path) -> Iterator[None]:
    """Have a sub-command run in a process of its own meanwhile, and wait for its end.

    Raises:
        RunError: it failed.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("w") as output:
        process = subprocess.Popen([sys.executable, "-m", "tdmpc.scripts.main", *command], stdout=output, stderr=output)
    log.info("beside this: tdmpc %s (%s)", " ".join(command), log_file)
    try:
        yield
        if process.wait():
            raise RunError(f"'tdmpc {' '.join(command)}' failed; what it said is in {log_file}")
    finally:
        process.terminate()  # where this one was stopped; it saves
        process.wait()


def _deploy(folders: Sequence[Path]) -> int:
    """Controllers of the runs: exported, played beside their agents, timed call by call; not 0 where one is wrong."""
    bundles = [folder / f"{folder.name}-bundle" for folder in folders]  # the tables show their names
    for folder, bundle in zip(folders, bundles, strict=True):
        export.main([str(folder), "--out", str(bundle)])
    status = max(validate.main([str(bundle), "--episodes", "3"]) for bundle in bundles)
    quick = ["--calls", "200", "--seconds", "2", "--out", str(folders[0] / TIMES)]
    latency.main([*map(str, bundles), "--torch", *map(str, folders), *quick])
    return status
