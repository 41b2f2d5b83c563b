"""``tdmpc suite``: run tasks x methods x seeds on Ray, on this machine or on a cluster.

Runs are plain Ray tasks. Ray Tune has no runs that wait for others (a pruned one for its dense one), tries again what
cannot succeed (``FailureConfig`` counts every error), keeps folders of its own beside a run's, and needs pyarrow.
"""

import contextlib
import json
import logging
import math
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tdmpc import runs
from tdmpc.config import ConfigError
from tdmpc.files import going_on
from tdmpc.scripts import ranges
from tdmpc.scripts.csv_tables import read_table, write_table
from tdmpc.scripts.suite_spec import Run, Suite, read, runs_of
from tdmpc.scripts.suite_worker import carry_out, log_of, tail

log = logging.getLogger("tdmpc")

SUMMARY = "summary.csv"
RETRIES = 3
"""How often a run whose worker was lost is resumed."""


@dataclass(frozen=True)
class SuiteArgs:
    """Run every task x method x seed of a suite. Finished runs are skipped, and a run that fails stops no other."""

    spec: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SPEC")]
    """TOML file; scripts/suite_spec.py says what it holds."""
    address: str | None = None
    """A Ray cluster, for example ``auto`` or ``ray://host:10001``. Its machines must share this file system. Processes
    of this machine do the work when not given."""
    workers: int = 0
    """Number of runs at a time on this machine; 0 for as many as its cores allow."""
    only: tuple[str, ...] = ()
    """Only runs whose names fit one of these shell patterns, for example 'cartpole-swingup/dense-[0-9]'; every run when
    not given. The pattern 'cartpole-swingup/dense-*' also fits dense-later-0."""
    resume: bool = False
    """Go on with a suite that was started. Finished runs are skipped, and others go on from their checkpoints."""


@dataclass
class Progression:
    """Where each run of a suite stands."""

    suite: Suite
    runs: Sequence[Run]
    chosen: Sequence[Run]
    """Those that are to be brought to their end now."""
    failed_before: Set[str]
    """Names of runs that failed when the suite was last worked on."""
    faults: dict[Run, str] = field(default_factory=dict)
    done: set[Run] = field(default_factory=set)

    def conclude(self, run: Run, fault: str) -> None:
        """Note the end of a run, and write the summary anew."""
        self.done.add(run)
        if fault:
            self.faults[run] = fault
        self.write()

    def status(self, run: Run) -> str:
        """In a word."""
        if run in self.faults:
            return "failed"
        if run in self.chosen:
            return "finished" if run in self.done else "waiting"
        if run.name in self.failed_before:
            return "failed"
        return "finished" if (run.folder / runs.SUMMARY).exists() else "waiting"

    def write(self) -> None:
        """The summary anew."""
        write_table(self.suite.folder / SUMMARY, [summary_row(each, self.status(each)) for each in self.runs])


def main(arguments: list[str]) -> int:
    """Parse, run everything, summarise; 1 where a run failed."""
    args = tyro.cli(SuiteArgs, args=arguments, prog="tdmpc suite")
    ranges.check(args, ConfigError, not_negative=["workers"])
    suite = read(args.spec)
    every = runs_of(suite)
    chosen = _chosen(every, args.only)
    _start_or_resume(suite, args)
    progression = Progression(suite, every, chosen, _failed(suite.folder / SUMMARY))
    progression.write()
    log.info("%d of %d runs: %s", len(chosen), len(every), ", ".join(run.name for run in chosen))
    with going_on(f"tdmpc suite {args.spec} --resume"), _cluster(args, suite):
        _train_all(progression)
        _finish_alone(progression)
    for run, fault in progression.faults.items():
        print(f"{run.name} failed: {fault}\n{tail(log_of(run))}", file=sys.stderr)
    asked = len(progression.chosen)
    log.info("%d of %d runs finished: %s", asked - len(progression.faults), asked, suite.folder / SUMMARY)
    return 1 if progression.faults else 0


def _chosen(every: Sequence[Run], patterns: Sequence[str]) -> list[Run]:
    for pattern in patterns:
        if not any(fnmatchcase(run.name, pattern) for run in every):
            names = ", ".join(run.name for run in every)
            raise ConfigError(f"--only {pattern}: no run is called so. The suite has {names}")
    return [run for run in every if not patterns or any(fnmatchcase(run.name, pattern) for pattern in patterns)]


def _start_or_resume(suite: Suite, args: SuiteArgs) -> None:
    if (suite.folder / SUMMARY).exists() and not args.resume:
        raise ConfigError(
            f"{suite.folder} was started before. Go on with it by: tdmpc suite {args.spec} --resume; "
            "or give the suite another name or output"
        )
    suite.folder.mkdir(parents=True, exist_ok=True)


def _failed(summary: Path) -> set[str]:
    """Names of the runs that failed, as the last summary tells."""
    if not summary.exists():
        return set()
    rows = read_table(summary, "task", "method", "seed", "status").query("status == 'failed'")
    return set(rows["task"] + "/" + rows["method"] + "-" + rows["seed"])


# On Ray ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _cluster(args: SuiteArgs, suite: Suite) -> Iterator[None]:
    ray = _ray()
    from tdmpc.scripts.main import LARGE_PAGES

    settings = {
        "GLIBC_TUNABLES": LARGE_PAGES,
        "OMP_NUM_THREADS": str(max(1, int(suite.cpus))),
        **{
            name: os.environ[name]
            for name in ("MUJOCO_GL", "WANDB_MODE", "WANDB_DIR", "PYTHONPATH")
            if name in os.environ
        },
    }
    local = {} if args.address else {"num_cpus": _cores(args, suite), "include_dashboard": False}
    if local and suite.gpus > torch.cuda.device_count():
        raise ConfigError(f"a run of this suite takes {suite.gpus:g} GPUs, and this machine has fewer: see gpus")
    ray.init(
        address=args.address or "local",
        runtime_env={"env_vars": settings},
        log_to_driver=False,
        logging_level=logging.ERROR,
        **local,
    )
    try:
        yield
    finally:
        ray.shutdown()


def _cores(args: SuiteArgs, suite: Suite) -> int:
    """How many cores Ray may hand out here: a run that takes more than there are gets those there are, alone."""
    return math.ceil(args.workers * suite.cpus) or max(len(os.sched_getaffinity(0)), math.ceil(suite.cpus))


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise ImportError("tdmpc suite needs Ray: pip install 'tdmpc[suite]'") from error
    return ray


def _train_all(progression: Progression) -> None:
    """All runs, those that prune after the ones that they prune; then the steps that may run side by side."""
    suite = progression.suite
    steps = {name: step.options for name, step in suite.then.items() if not step.alone}
    # A fresh process for each run; one that is lost is started again, and goes on from the run's checkpoint.
    task = _ray().remote(num_cpus=suite.cpus, num_gpus=suite.gpus, max_retries=RETRIES, max_calls=1)(carry_out)
    waiting: dict[Path, Any] = {}
    for run in progression.chosen:
        source = waiting.get(run.source) if run.source else None
        waiting[run.folder] = task.options(name=run.name).remote(run, steps, source)
    _await(progression, {waiting[run.folder]: run for run in progression.chosen}, "runs")


def _finish_alone(progression: Progression) -> None:
    """The steps that want the machine for themselves, one after the other."""
    steps = {name: step.options for name, step in progression.suite.then.items() if step.alone}
    task = _ray().remote(num_cpus=progression.suite.cpus, max_calls=1)(carry_out)
    for run in [run for run in progression.chosen if steps and run not in progression.faults]:
        _await(progression, {task.remote(run, steps, None): run}, f"alone: {run.name}")


def _await(progression: Progression, jobs: Mapping[Any, Run], title: str) -> None:
    ray, left = _ray(), list(jobs)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        shown = bar.add_task(title, total=len(jobs))
        while left:
            (ended, *_), left = ray.wait(left, num_returns=1)
            run = jobs[ended]
            try:
                fault = ray.get(ended)
            except ray.exceptions.RayError as error:
                fault = f"its worker was lost {RETRIES + 1} times ({type(error).__name__})"
            progression.conclude(run, fault)
            bar.console.print(f"{run.name}: {fault or _result(run)}")
            bar.advance(shown)


# What came out ---------------------------------------------------------------------------------------------------


def summary_row(run: Run, status: str) -> dict[str, Any]:
    """A run in the table: where it stands, how it was made, the figures of its summary and of its steps."""
    row = {
        "task": run.task,
        "method": run.method,
        "seed": run.seed,
        "status": status,
        "command": "tdmpc " + shlex.join(run.start),
    }
    row |= _figures(run.folder / runs.SUMMARY, "")
    for path in sorted(run.folder.glob("*.json")):
        if path.name not in (runs.SUMMARY, runs.CONFIG):
            row |= _figures(path, f"{path.stem}.")
    return row


def _figures(path: Path, prefix: str) -> dict[str, Any]:
    """The numbers and words of a JSON object, or of each object in a list of them."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    objects = found if isinstance(found, list) else [found]
    return {
        f"{prefix}{number}.{name}" if isinstance(found, list) else f"{prefix}{name}": value
        for number, each in enumerate(objects)
        if isinstance(each, dict)
        for name, value in each.items()
        if isinstance(value, int | float | str)
    }


def _result(run: Run) -> str:
    found = _figures(run.folder / runs.SUMMARY, "")
    return f"return {found['return_mean']:.1f}" if "return_mean" in found else "finished"
