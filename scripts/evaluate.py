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

from tdmpc import runs
from tdmpc.config import ConfigError
from tdmpc.config_checks import check, check_delay
from tdmpc.evaluation import EVALUATION_STREAM, evaluate, frame_rate
from tdmpc.runs import load_agent
from tdmpc.scripts import ranges
from tdmpc.video import write_video

BUDGET = ("samples", "iterations", "elites", "horizon")


@dataclass(frozen=True)
class EvaluateArgs:
    """Play whole episodes without exploration and report the return."""

    run: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    episodes: int = 10
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
    elites: int | None = None
    horizon: int | None = None
    """Decisions in a plan, at most."""
    video: bool = False
    """Film the first episode into the run folder."""
    json: bool = False
    """Print one JSON object instead of a table."""
    device: str = "cpu"
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
    given = _given(args, "delay", "precision")
    agent, meta = load_agent(args.run, planner=_given(args, *BUDGET), device=args.device, compile=False, **given)
    check(agent.config)
    check_delay(agent.config, agent.spec)
    seed = agent.config.seed + EVALUATION_STREAM if args.seed is None else args.seed
    result = evaluate(
        agent, step=meta["agent_steps"], episodes=args.episodes, seed=seed, policy=args.policy, record=args.video
    )
    dense = runs.config(args.run).model
    summary = {**runs.summary(agent, result, meta=meta, dense=dense), "policy": args.policy}
    if args.policy == "planner":
        alone = evaluate(agent, step=meta["agent_steps"], episodes=args.episodes, seed=seed, policy="prior")
        summary["prior_return_mean"], summary["prior_return_std"] = alone.return_mean, alone.return_std
    film = args.run / runs.VIDEO
    if result.frames:
        summary["video"] = str(film)
    if args.json:
        print(json.dumps(summary))
    else:
        show(summary, title=str(args.run))
    if result.frames:
        write_video(film, result.frames, frame_rate(agent.spec))
    return 0


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
