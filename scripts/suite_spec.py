"""A suite as written in TOML, and the runs that it stands for: tasks x methods x seeds.

    name = "pruning"
    seeds = [0, 1, 2]
    options = "--threads 1"

    [tasks]
    cartpole-swingup = "--env-steps 60000"

    [methods]
    dense = "--env-steps 60000"
    bayesian = "--prune.target 0.97 --prune.criterion bayesian"
    one-shot = { options = "--target 0.97 --finetune-steps 5000", prunes = "dense" }

    [then]
    validate = "validate {run}/bundle --json"

stands for runs/suites/pruning/cartpole-swingup/dense-0, dense-1, ... and for each, when it is finished, a command.
"""

import shlex
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tdmpc import runs
from tdmpc.config import ConfigError

Options = Annotated[
    tuple[str, ...], BeforeValidator(lambda value: tuple(shlex.split(value)) if isinstance(value, str) else value)
]
"""Command-line options, written as in a shell."""
Name = Annotated[str, Field(pattern=r"^[\w.+-]+$")]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


def _settings(value: Any) -> Any:
    return {"options": value} if isinstance(value, str) else value


class Part(BaseModel):
    """What every table of a suite has in common: it cannot be changed, and unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Task(Part):
    """An environment with its own options of ``tdmpc train``."""

    options: Options = ()
    env: str | None = None
    """Its id; the task's name when not given."""
    seeds: Seeds | None = None
    """In place of the suite's."""


class Method(Part):
    """A way to train."""

    options: Options = ()
    """Of ``tdmpc train``, or of ``tdmpc prune`` where it prunes finished runs."""
    prunes: str | None = None
    """The method whose finished runs it prunes."""
    tasks: tuple[str, ...] | None = None
    """The tasks that it is run on; all when not given."""


class Step(Part):
    """A command for each finished run; ``{run}`` in it is the run's folder. What ``--json`` prints is kept there."""

    options: Options
    alone: bool = False
    """One at a time when all training is over, as timings want it."""


class Suite(Part):
    """Runs that belong together."""

    name: Name
    seeds: Seeds = (0,)
    options: Options = ()
    """Of every ``tdmpc train``."""
    output: Path | None = None
    """Folder of its runs; runs/suites/NAME when not given."""
    cpus: Annotated[float, Field(gt=0)] = 1
    """Cores that a run takes."""
    gpus: Annotated[float, Field(ge=0)] = 0
    """Graphics processors that a run takes; a fraction where several share one."""
    wandb: Literal["disabled", "offline", "online"] = "disabled"
    """The suite is the group of its runs."""
    tasks: Annotated[dict[Name, Annotated[Task, BeforeValidator(_settings)]], Field(min_length=1)]
    methods: Annotated[dict[Name, Annotated[Method, BeforeValidator(_settings)]], Field(min_length=1)]
    then: dict[Name, Annotated[Step, BeforeValidator(_settings)]] = {}

    @property
    def folder(self) -> Path:
        """Where its runs and its summary are."""
        return (self.output or Path("runs") / "suites" / self.name).absolute()


class Run(Part):
    """One run of a suite."""

    task: str
    method: str
    seed: int
    folder: Path
    start: tuple[str, ...]
    """The command that starts it, without ``tdmpc``."""
    source: Path | None = None
    """The finished run that it prunes."""

    @property
    def name(self) -> str:
        """What it is called in tables: ``cartpole-swingup/dense-0``."""
        return f"{self.task}/{self.folder.name}"


def read(path: Path) -> Suite:
    """A suite from its file.

    Raises:
        ConfigError: it cannot be read, or what in it is wrong, one line for each fault.
    """
    try:
        suite = Suite.model_validate(tomllib.loads(path.read_text()))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ConfigError(f"{path}: {faults}") from error
    faults = list(_loose_ends(suite))
    if faults:
        raise ConfigError(f"{path}: {'; '.join(faults)}")
    return suite


def _loose_ends(suite: Suite) -> list[str]:
    """Names in a suite that stand for nothing, or for something else."""
    taken = sorted({Path(runs.SUMMARY).stem, Path(runs.CONFIG).stem} & suite.then.keys())
    faults = [f"then.{name}: a run has a {name}.json of its own; choose another name" for name in taken]
    for name, method in suite.methods.items():
        unknown = sorted(set(method.tasks or ()) - suite.tasks.keys())
        if unknown:
            faults.append(f"methods.{name}.tasks: there is no task {', '.join(unknown)}")
        if method.prunes is not None:
            source = suite.methods.get(method.prunes)
            if source is None or source.prunes is not None:
                faults.append(f"methods.{name}.prunes: {method.prunes!r} is no method that trains")
            elif not set(_tasks(suite, method)) <= set(_tasks(suite, source)):
                faults.append(f"methods.{name}.prunes: {method.prunes!r} is not run on all of its tasks")
    return faults


def runs_of(suite: Suite) -> list[Run]:
    """Every run of a suite: seed by seed, so that one seed of all is there before the next begins."""
    methods = sorted(suite.methods.items(), key=lambda item: item[1].prunes is not None)  # what trains comes first
    pairs = [(task, name) for task in suite.tasks for name, method in methods if task in _tasks(suite, method)]
    seeds = {name: task.seeds or suite.seeds for name, task in suite.tasks.items()}
    return [
        _run(suite, task, method, seeds[task][turn])
        for turn in range(max(map(len, seeds.values())))
        for task, method in pairs
        if turn < len(seeds[task])
    ]


def _tasks(suite: Suite, method: Method) -> tuple[str, ...]:
    return tuple(suite.tasks) if method.tasks is None else method.tasks


def _run(suite: Suite, task: str, name: str, seed: int) -> Run:
    method, settings = suite.methods[name], suite.tasks[task]
    parent = suite.folder / task
    folder = parent / f"{name}-{seed}"
    tracked = ("--wandb", suite.wandb, "--wandb-group", suite.name, "--wandb-tags", task, name)
    options = (*method.options, "--run-dir", str(folder), *(tracked if suite.wandb != "disabled" else ()))
    if method.prunes is None:
        source = None
        start = ("train", settings.env or task, "--seed", str(seed), *suite.options, *settings.options, *options)
    else:
        source = parent / f"{method.prunes}-{seed}"
        start = ("prune", str(source), *options)
    return Run(task=task, method=name, seed=seed, folder=folder, start=start, source=source)
