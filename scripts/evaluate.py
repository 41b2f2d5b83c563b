"""``tdmpc evaluate``: play episodes with the agent of a run."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from tdmpc import evaluation, runs
from tdmpc.agent import Agent
from tdmpc.config import ConfigError
from tdmpc.config_checks import check, check_delay
from tdmpc.evaluation import EVALUATION_STREAM, Evaluation, Policy
from tdmpc.runs import load_agent
from tdmpc.scripts import ranges
from tdmpc.scripts.film import write_film

BUDGET = ("samples", "iterations", "elites", "horizon")


@dataclass(frozen=True)
class EvaluateArgs:
    """Play whole episodes without exploration and report the return."""

    run: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    episodes: int = 10
    """Episodes to play."""
    policy: Literal["planner", "prior"] = "planner"
    """``planner`` plans every action. It also plays the same episodes with the policy network alone. ``prior`` plays
    only with the policy network."""
    seed: int | None = None
    """Seed of episodes and planner noise; the run's evaluation seed when not given."""
    delay: tuple[int, ...] | None = None
    """Decisions after which an action is applied, or the least and the largest delay; the run's own when not given."""
    samples: int | None = None
    """Plans sampled in an iteration. This setting of the planner and those below are the run's own when not given."""
    iterations: int | None = None
    """Rounds of sampling and choosing."""
    elites: int | None = None
    """Best plans of an iteration."""
    horizon: int | None = None
    """Decisions in a plan, at most."""
    video: bool = False
    """Film the first episode into the run folder, behind two seconds of the untrained agent."""
    json: bool = False
    """Print one JSON object instead of a table."""
    device: str = "cpu"
    """Torch device, for example ``cpu`` or ``cuda``."""
    threads: int = 0
    """Threads of the tensor library; 0 for all cores."""
    precision: Literal["auto", "float32", "bfloat16"] | None = None
    """Precision of the matrix products; the run's own when not given."""


def main(arguments: list[str]) -> int:
    """Parse, play, print."""
    args = tyro.cli(EvaluateArgs, args=arguments, prog="tdmpc evaluate")
    ranges.check(args, ConfigError, positive=["episodes", *BUDGET], not_negative=["seed", "threads"])
    if args.threads:
        torch.set_num_threads(args.threads)
    agent, meta = _opened(args.run, **_given(args, "delay", "precision", "device", *BUDGET))
    play = {"episodes": args.episodes, "seed": args.seed}
    result = _played(agent, meta, **play, policy=args.policy, record=args.video)
    dense = runs.config(args.run).model
    summary = {**runs.summary(agent, result, meta=meta, dense=dense), "policy": args.policy}
    if args.policy == "planner":
        alone = _played(agent, meta, **play, policy="prior")
        summary["prior_return_mean"], summary["prior_return_std"] = alone.return_mean, alone.return_std
    film = args.run / runs.VIDEO
    if result.frames:
        summary["video"] = str(film)
    if args.json:
        print(json.dumps(summary))
    else:
        show(summary, title=str(args.run))
    if result.frames:
        write_film(film, result, runs.config(args.run), agent.spec)
    return 0


def evaluate(
    run: Path | str,
    *,
    episodes: int = 10,
    policy: Policy = "planner",
    seed: int | None = None,
    record: bool = False,
    **settings: Any,
) -> Evaluation:
    """Play whole episodes with the agent of a run, without exploration; what ``tdmpc evaluate`` does.

    Args:
        run: a run folder.
        episodes: how many.
        policy: plan, or take the policy's action.
        seed: of episodes and planner noise; the run's evaluation seed when not given.
        record: keep pictures of the first episode.
        settings: ``samples``, ``iterations``, ``elites`` and ``horizon`` of the planner, ``delay``, ``precision``,
            ``device``; the run's own where not given.

    Raises:
        CheckpointError: there is no run.
        ConfigError: a setting does not exist, or cannot have its value.
    """
    if episodes < 1:
        raise ConfigError(f"episodes must be positive, got {episodes}")
    agent, meta = _opened(Path(run), **settings)
    return _played(agent, meta, episodes=episodes, policy=policy, seed=seed, record=record)


def _opened(run: Path, **settings: Any) -> tuple[Agent, dict[str, Any]]:
    known = ("delay", "precision", "device", *BUDGET)
    if foreign := sorted(settings.keys() - set(known)):
        raise ConfigError(f"there is no setting {foreign[0]} of an evaluation: there are {', '.join(known)}")
    budget = {name: settings.pop(name) for name in BUDGET if name in settings}
    agent, meta = load_agent(run, planner=budget, compile=False, **{"device": "cpu", **settings})
    check(agent.config)
    check_delay(agent.config, agent.spec)
    return agent, meta


def _played(agent: Agent, meta: dict[str, Any], *, seed: int | None, **settings: Any) -> Evaluation:
    seed = agent.config.seed + EVALUATION_STREAM if seed is None else seed
    return evaluation.evaluate(agent, step=meta["agent_steps"], seed=seed, **settings)


def _given(args: EvaluateArgs, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def show(summary: dict[str, object], *, title: str) -> None:
    """A two-column table of a summary."""
    table = Table("figure", "value", title=title)
    for name, value in summary.items():
        table.add_row(name, _readable(value))
    Console().print(table)


def _readable(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}" if value == 0 or abs(value) >= 0.005 else f"{value:.1e}"
    return f"{value:,}" if isinstance(value, int) else str(value)
