"""Run folders: what a training leaves behind, never overwritten."""

import hashlib
import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from filelock import FileLock, Timeout

from tdmpc import checkpoint, machine
from tdmpc.agent import Agent
from tdmpc.checkpoint import below
from tdmpc.config import ConfigError, ModelConfig, TrainConfig, from_json
from tdmpc.evaluation import Evaluation
from tdmpc.files import write_whole
from tdmpc.macs import planning_macs
from tdmpc.replay import Replay
from tdmpc.spec import EnvSpec
from tdmpc.world_model import parameter_shapes

CONFIG = "config.json"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
CURVE_TABLE = "learning_curve.csv"
CURVE = "learning_curve.png"
PANELS = "training.png"
VIDEO = "video.mp4"
LOCK = ".lock"
SEAL = "sha256"
"""Name under which the settings of a run have the hash of all the others; older runs have none."""
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)
"""What settings raise that are missing, no JSON, or of another program."""


T = TypeVar("T")


class RunError(ValueError):
    """A run folder cannot be used as asked; the message says what to do."""


def create(folder: Path) -> Path:
    """Make a new run folder.

    Raises:
        RunError: it exists and is not empty, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(path.name != LOCK for path in folder.iterdir()):
            raise RunError(
                f"{folder} exists and is never overwritten. Go on with it by: tdmpc train --resume {folder}; "
                "or choose another --run-dir"
            )
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise RunError(f"cannot write into {folder}: {error.strerror}. Choose another --run-dir") from error
    return folder


@contextmanager
def new(folder: Path) -> Iterator[None]:
    """Make a new run folder and keep it to this process; what fails before it wrote anything leaves none.

    Raises as ``create`` and ``locked``.
    """
    was_there = folder.exists()
    with locked(create(folder)):
        create(folder)  # another process may have begun in it, and ended, before it was locked
        try:
            yield
        except Exception:
            if not was_there and {path.name for path in folder.glob("*")} <= {LOCK}:
                shutil.rmtree(folder, ignore_errors=True)  # it may be gone already
            raise


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a run folder to this process; the lock falls with the process, however it ends.

    Raises:
        RunError: another process has it.
    """
    try:
        with FileLock(folder / LOCK, blocking=False):
            yield
    except Timeout:
        raise RunError(f"another process is working on {folder}; wait for it or stop it first") from None


def config(folder: Path) -> TrainConfig:
    """The settings that a run was started with, or last resumed with.

    Raises:
        RunError: this is not a run folder.
    """
    return settings(folder, "config", TrainConfig)


def spec(folder: Path) -> EnvSpec:
    """The environment of a run; raises as ``config``."""
    return settings(folder, "spec", EnvSpec)


def settings(folder: Path, part: str, kind: type[T], default: T | None = None) -> T:
    """One part of what a run was started with, by its name; the default where it is not there. Raises as ``config``."""
    try:
        parts = json.loads((folder / CONFIG).read_text())
        found = default if default is not None and part not in parts else from_json(kind, parts[part])
    except UNREADABLE as error:
        reason = f"{type(error).__name__}: {error}"
        raise RunError(f"{folder} is no run folder: {CONFIG} cannot be read ({reason})") from error
    if parts.pop(SEAL, None) not in (None, _hash(parts)):
        raise RunError(
            f"{folder / CONFIG} is damaged, or was changed by hand: its content does not have the hash in it. Restore "
            "it from a copy; what may change in a run is an option beside --resume"
        )
    return found


def write_settings(folder: Path, parts: Mapping[str, Any]) -> None:
    """Write all that a run is started with, by the names that ``settings`` takes, and its hash."""
    write_json(folder / CONFIG, {**parts, SEAL: _hash(parts)})


def _hash(parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def load_agent(
    folder: Path | str, *, planner: Mapping[str, Any] | None = None, **overrides: Any
) -> tuple[Agent, dict[str, Any]]:
    """The agent of a run, without its replay, and what was saved beside it.

    Args:
        folder: a run folder.
        planner: settings of ``PlannerConfig`` to plan with instead of the run's.
        overrides: settings of ``TrainConfig`` that may differ at run time: device, precision, threads, compile, delay,
            perturb.
    """
    saved = checkpoint.load(Path(folder), prefixes=("agent/",))
    settings = {**saved.meta["config"], **overrides}
    config = from_json(TrainConfig, {**settings, "planner": {**settings["planner"], **(planner or {})}})
    agent = Agent(config, from_json(EnvSpec, saved.meta["spec"]))
    agent.load_state(below("agent", saved.tensors))
    return agent, saved.meta


def load_replay(folder: Path, agent: Agent) -> Replay:
    """The replay of a run, to draw windows from.

    Raises:
        RunError: the run has not yet stored a whole window.
    """
    config, spec = agent.config, agent.spec
    replay = Replay(
        config.replay,
        observation_dim=spec.observation_dim,
        action_dim=spec.action_dim,
        horizon=config.loss.horizon,
        lanes=config.num_envs,
    )
    saved = below("replay", checkpoint.load(folder, prefixes=("replay/",)).tensors)
    replay.load_state({name: tensor.numpy() for name, tensor in saved.items()})
    if not replay.windows:
        raise RunError(f"{folder} has nothing to replay yet: go on with it by: tdmpc train --resume {folder}")
    return replay


def load_agents(folders: Sequence[Path], *, example: str, **overrides: Any) -> dict[str, tuple[Path, Agent, int]]:
    """The agents of several runs of one task, to be compared.

    Args:
        folders: run folders; one that is named twice counts once.
        example: of a command, for whoever names none.
        overrides: as ``load_agent`` takes them.

    Returns:
        Run folder, agent and its step, by the folder's name, or by its path where two have one name.

    Raises:
        ConfigError: there are none, or they play different episodes.
    """
    if not folders:
        raise ConfigError(f"which agents? For example: {example}")
    names, found = [folder.name for folder in folders], {}
    for folder in dict.fromkeys(folders):
        agent, meta = load_agent(folder, **overrides)
        found[str(folder) if names.count(folder.name) > 1 else folder.name] = folder, agent, meta["agent_steps"]
    tasks = {f"{agent.spec.id} x {agent.spec.action_repeat}" for _, agent, _ in found.values()}
    if len(tasks) > 1:
        raise ConfigError(
            f"the agents must be of one environment and action repeat to play the same episodes, got {sorted(tasks)}"
        )
    return found


def has_checkpoint(folder: Path) -> bool:
    """Whether a run came as far as its first checkpoint."""
    return any((folder / name).exists() for name in (checkpoint.CURRENT, checkpoint.PREVIOUS))


def unused(parent: Path, name: str) -> Path:
    """A folder that does not exist yet: ``runs/name``, or ``runs/name-2``, ``runs/name-3``, ..."""
    folder, number = parent / name, 1
    while folder.exists():
        number += 1
        folder = parent / f"{name}-{number}"
    return folder


def write_curve(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """The learning curve as a small table: returns of training episodes and of evaluations."""
    lines = ["kind,env_steps,return"]
    for row in rows:
        value = row.get("return", row.get("return_mean"))
        if value is not None:
            lines.append(f"{row['kind']},{row['env_steps']},{value:.2f}")
    write_whole(path, "".join(f"{line}\n" for line in lines).encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    write_whole(path, (json.dumps(value, indent=2) + "\n").encode())


def summary(agent: Agent, evaluation: Evaluation, *, meta: dict[str, Any], dense: ModelConfig) -> dict[str, Any]:
    """The figures of an evaluated agent.

    Args:
        agent: what was evaluated.
        evaluation: its episodes.
        meta: ``env_steps``, ``agent_steps``, ``wall_s`` and ``cpu_s`` of the training so far.
        dense: widths before any pruning.
    """
    config = agent.config
    return {
        "env": agent.spec.id,
        "seed": config.seed,
        "return_mean": evaluation.return_mean,
        "return_std": evaluation.return_std,
        "episodes": len(evaluation.returns),
        "diverged": evaluation.diverged,
        "action_variation": evaluation.action_variation,
        "env_steps": meta["env_steps"],
        "agent_steps": meta["agent_steps"],
        "wall_s": round(meta["wall_s"], 1),
        "cpu_s": round(meta.get("cpu_s", 0.0), 1),
        "ms_per_plan_p50": evaluation.decision_ms_p50,
        **_sizes(config.model, agent),
        **{f"{name}_dense": value for name, value in _sizes(dense, agent).items()},
        "precision": agent.precision,
        "device": config.device,
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "processor": machine.processor(),
        "torch": torch.__version__,
    }


def _sizes(model: ModelConfig, agent: Agent) -> dict[str, int]:
    return {
        "parameters": sum(map(math.prod, parameter_shapes(model, agent.spec).values())),
        "planning_macs": sum(planning_macs(model, agent.spec, agent.config.planner).values()),
    }


def revision(package: Path = Path(__file__).parent) -> str | None:
    """The commit of this program, ``-dirty`` where it was changed since; None where it is no checkout of its own.

    Args:
        package: a folder of it.
    """

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=package, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # installed into somebody else's checkout, it is not its own
        return git("describe", "--always", "--dirty", "--exclude", "*")
    except (OSError, subprocess.CalledProcessError):
        return None
