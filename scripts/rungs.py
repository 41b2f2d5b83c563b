"""What a ladder is made of: agents of runs and controllers of bundles, played one episode at a time."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tdmpc import checkpoint
from tdmpc.config import ConfigError, PerturbConfig
from tdmpc.config_checks import check_delay
from tdmpc.deploy import bundle
from tdmpc.deploy.backends import Runtime
from tdmpc.deploy.bundle import Bundle, deactuate
from tdmpc.deploy.controller import Controller
from tdmpc.env_names import DM_CONTROL, resolve
from tdmpc.envs import make_env
from tdmpc.evaluation import evaluate
from tdmpc.macs import planning_macs
from tdmpc.runs import load_agent
from tdmpc.spec import EnvOptions
from tdmpc.vector_env import episode_seed

Interval = tuple[float, float]


@dataclass(frozen=True)
class Rung:
    """One size of a controller."""

    path: Path
    sha256: str
    """Of the checkpoint, or of the planner's graph."""
    macs: int
    """Multiply-adds of a plan."""
    task: dict[str, Any]
    """What must be the same for returns to be comparable, by name."""
    bounds: Interval | None
    """Between which the return of an episode lies, where that is known."""
    play: Callable[[int], float]
    """The return of the episode with this seed; the seed of a planner's noise, too."""
    bundle: Bundle | None = None
    """None of a run."""


def load(path: Path, perturb: PerturbConfig, runtime: Runtime) -> Rung:
    """A run or a bundle, ready to play with these perturbations.

    Raises as ``tdmpc.checkpoint.load`` and ``Controller.load``.
    """
    return _bundle(path, perturb, runtime) if (path / bundle.MANIFEST).exists() else _run(path, perturb)


def _run(path: Path, perturb: PerturbConfig) -> Rung:
    agent, meta = load_agent(path, device="cpu", compile=False)
    agent.config = replace(agent.config, perturb=perturb)
    check_delay(agent.config, agent.spec)
    spec, model = agent.spec, agent.config.model
    task = _task(spec.id, spec.options, agent.config.delay, model.normalize_observations)
    return Rung(
        path=path,
        sha256=bundle.sha256(path / checkpoint.CURRENT),
        macs=sum(planning_macs(model, spec, agent.config.planner).values()),
        task=task,
        bounds=return_bounds(spec.id, (spec.episode_steps or 0) * spec.action_repeat),
        play=lambda seed: evaluate(agent, step=meta["agent_steps"], episodes=1, seed=seed).returns[0],
    )


def _bundle(path: Path, perturb: PerturbConfig, runtime: Runtime) -> Rung:
    controller = Controller.load(path, runtime)
    described, manifest = controller.bundle, controller.bundle.manifest
    environment, options = manifest["environment"], options_of(described)
    normalised = manifest["widths"].get("normalize_observations")
    steps = (environment.get("episode_steps") or 0) * environment["action_repeat"]

    def play(seed: int) -> float:
        controller.reset(seed=seed)
        total, ended = 0.0, False
        with closing(make_env(environment["id"], perturb=perturb, **options)) as env:
            observation, _ = env.reset(seed=episode_seed(seed, 0, 0))
            while not ended:
                action = controller.act(described.readings(observation))
                given = deactuate(action, described.low, described.high).astype(np.float32)
                observation, reward, terminated, truncated, _ = env.step(given)
                total, ended = total + float(reward), terminated or truncated
        return total

    return Rung(
        path=path,
        sha256=manifest["files"][bundle.PLANNER]["sha256"],
        macs=int(sum(manifest["macs"].values())),
        task=_task(environment["id"], options, (described.delay,), normalised),
        bounds=return_bounds(environment["id"], steps),
        play=play,
        bundle=described,
    )


def options_of(described: Bundle) -> EnvOptions:
    """How the environment of a bundle was made."""
    environment = described.manifest["environment"]
    return {
        "action_repeat": environment["action_repeat"],
        "max_episode_steps": environment.get("max_episode_steps"),
    }


def _task(env_id: str, options: EnvOptions, delays: Sequence[int], normalised: bool | None) -> dict[str, Any]:
    delay = [min(delays), max(delays)]
    return {"environment": env_id, **options, "delay": delay, "normalize_observations": normalised}


def return_bounds(env_id: str, env_steps: int) -> Interval | None:
    """Between what the return of an episode lies: dm_control's suite pays between 0 and 1 in each environment step."""
    name = resolve(env_id).removeprefix(DM_CONTROL)  # which loads dm_control with a renderer that works here
    if not env_steps or name == env_id:
        return None
    suite = import_module("dm_control.suite").ALL_TASKS
    tasks = {f"{domain}-{task}" for domain, task in suite if domain != "lqr"}  # what lqr pays may be below 0
    return (0.0, float(env_steps)) if name.rpartition("-v")[0] in tasks else None


def check(ladder: Sequence[Rung]) -> None:
    """Refuse what is no ladder.

    Raises:
        ConfigError: fewer than two rungs, two tasks, or an order other than from the largest to the smallest.
    """
    if len(ladder) < 2:
        raise ConfigError(
            "name a reference and at least one candidate that is smaller. For example: tdmpc certify runs/dense "
            "runs/pruned-75 runs/pruned-90"
        )
    first = ladder[0]
    for above, rung in pairwise(ladder):
        for name, wanted in first.task.items():
            if rung.task[name] != wanted:
                raise ConfigError(
                    f"{rung.path} has {name} {rung.task[name]}, and the reference {first.path} has {wanted}: their "
                    "returns cannot be compared. Choose candidates of the reference's task"
                )
        if rung.macs >= above.macs:
            raise ConfigError(
                f"{rung.path} needs {rung.macs:,} multiply-adds for a plan, and {above.path} before it {above.macs:,}: "
                "name the largest first, and each smaller one after it"
            )
