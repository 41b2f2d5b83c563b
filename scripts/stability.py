"""``tdmpc stability``: closed loops as a control engineer would measure them, by size of the agent."""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from tdmpc.agent import Agent
from tdmpc.config import ConfigError
from tdmpc.deploy.percentiles import lower_bound, upper_bound
from tdmpc.envs import NOMINAL
from tdmpc.evaluation import EVALUATION_STREAM
from tdmpc.macs import planning_macs
from tdmpc.runs import load_agents
from tdmpc.scripts import ranges
from tdmpc.scripts.closed_loop import PLANAR, Trace, closed_loop, conformal, excess, prediction_errors, settled
from tdmpc.scripts.csv_tables import write_table
from tdmpc.scripts.rungs import return_bounds

log = logging.getLogger("tdmpc")

SHARE = 0.95
"""Of episodes for which a prediction error is promised; and the confidence of each end of an interval."""
ANGLES, RATES = (-np.pi, np.pi), (-8.0, 8.0)
"""Starts of a pole: hanging to upright to hanging, in radians; radians a second."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """An agent with its episodes."""

    name: str
    agent: Agent
    trace: Trace
    """From the environment's own starts."""
    ceiling: float
    """r_max / (1 - gamma)."""
    violated: np.ndarray
    """``Bool[T N]``, decisions in which the Lyapunov decrease is missed by more than the slack."""
    starts: np.ndarray | None
    """``Float[N 2]``, angles and angular velocities; none where the task is not planar."""
    settled: np.ndarray
    """``Bool[N]``, of the starts."""
    row: Row


@dataclass(frozen=True)
class StabilityArgs:
    """Measure Lyapunov decrease, region of attraction and prediction errors of agents in closed loop."""

    runs: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")] = ()
    """Run folders of one task, the largest agent first."""
    out: Path = Path("stability")
    """Folder for the table and the figures."""
    episodes: int = 20
    """From the environment's own starts; fewer than 19 tell no 95 % quantile of prediction errors."""
    grid: int = 9
    """Angles and angular velocities of a pole to start from: so many of each. Pendulum and cartpole only."""
    slack: float = 0.1
    """By how much the decrease may be missed, in highest rewards of a decision."""
    goal: float = 0.8
    """Share of the highest reward that is paid in the goal set."""
    last: float = 0.2
    """Share of an episode, at its end, during which the goal set must not be left."""
    reward_max: float | None = None
    """Highest reward of an environment step; known of dm_control's suite, where it is 1."""
    seed: int = EVALUATION_STREAM
    """Of episodes and planner noise, the same for all agents."""
    threads: int = 1
    """Of the tensor library."""


def main(arguments: list[str]) -> int:
    """Parse, play, measure, tabulate, draw."""
    args = tyro.cli(StabilityArgs, args=arguments, prog="tdmpc stability")
    ranges.check(
        args, ConfigError, positive=["episodes", "grid", "threads", "reward_max"], not_negative=["seed", "slack"]
    )
    for name in ("goal", "last"):
        if not 0 < (value := getattr(args, name)) <= 1:
            raise ConfigError(f"--{name} must be above 0 and at most 1, got {value}")
    torch.set_num_threads(args.threads)
    found: list[Measured] = []
    agents = load_agents(args.runs, example="tdmpc stability runs/dense runs/pruned-75", device="cpu", compile=False)
    for name, (_, agent, step) in agents.items():
        agent.config = dataclasses.replace(agent.config, perturb=NOMINAL)
        found.append(_measured(name, agent, step, args, dense=found[0].row["macs"] if found else None))
    args.out.mkdir(parents=True, exist_ok=True)
    write_table(args.out / "stability.csv", [each.row for each in found])
    from tdmpc.scripts.report import stability as figures

    pictures = figures.draw(found, args.out, goal=args.goal)
    _show([each.row for each in found])
    print(args.out / "stability.csv", *pictures, sep="\n")
    return 0


def _measured(name: str, agent: Agent, step: int, args: StabilityArgs, *, dense: int | None) -> Measured:
    highest = _highest_reward(agent, args)
    log.info("%s: %d episodes", name, args.episodes)
    trace = closed_loop(agent, step=step, episodes=args.episodes, seed=args.seed)
    missed = (excess(agent, trace) / highest).numpy()
    steps = trace.alive.numpy()
    violated = (missed > args.slack) & steps
    depth = missed[violated]
    ahead = min(agent.config.planner.horizon_at(step), len(missed))
    latent, paid = (errors.numpy() for errors in prediction_errors(agent, trace, ahead=ahead))
    starts = _starts(args.grid) if PLANAR.fullmatch(agent.spec.id) else None
    caught = np.zeros(0, bool)
    if starts is not None:
        log.info("%s: %d starts of a grid", name, len(starts))
        played = closed_loop(agent, step=step, episodes=len(starts), seed=args.seed, starts=starts)
        caught = settled(played, goal=args.goal * highest, last=args.last)
    macs = sum(planning_macs(agent.config.model, agent.spec, agent.config.planner).values())
    row = {
        "agent": name,
        "macs": macs,
        "macs_left": macs / (dense or macs),
        "return_mean": float(trace.rewards.sum(0).mean()),
        "return_std": float(trace.rewards.sum(0).std(unbiased=False)),
        "episodes": args.episodes,
        **_interval("violations", int(violated.sum()), int(steps.sum())),
        "depth_median": float(np.median(depth)) if len(depth) else 0.0,
        "depth_max": float(depth.max(initial=0.0)),
        **(_interval("settled", int(caught.sum()), len(caught)) if len(caught) else {}),
        "ahead": ahead,
        "latent_error": conformal(latent, SHARE),
        "return_error": conformal(paid, SHARE),
    }
    return Measured(name, agent, trace, highest / (1 - agent.config.loss.discount), violated, starts, caught, row)


def _highest_reward(agent: Agent, args: StabilityArgs) -> float:
    """Of a decision."""
    known = 1.0 if return_bounds(agent.spec.id, 1) else None
    if (reward := args.reward_max or known) is None:
        raise ConfigError(
            f"nobody knows the highest reward of {agent.spec.id}: state that of an environment step by --reward-max"
        )
    return reward * agent.spec.action_repeat


def _interval(name: str, count: int, trials: int) -> Row:
    """A share with the interval of Clopper and Pearson, 95 % at each end."""
    low, high = lower_bound(count, trials, SHARE), upper_bound(count, trials, SHARE)
    return {name: count / trials, f"{name}_low": low, f"{name}_high": high, f"{name}_of": trials}


def _starts(count: int) -> np.ndarray:
    """Angles and angular velocities on a grid, ``Float[N 2]``: the angles go round and have no end twice."""
    angles = np.linspace(*ANGLES, count, endpoint=False) + np.pi / count
    return np.stack(np.meshgrid(angles, np.linspace(*RATES, count)), -1).reshape(-1, 2)


def _show(rows: list[Row]) -> None:
    table = Table("agent", "left", "return", "decrease fails", "settled", "latent error", "return error")
    for row in rows:
        shares = [
            f"{row[name]:.1%} ({row[f'{name}_low']:.1%} to {row[f'{name}_high']:.1%})" if name in row else "-"
            for name in ("violations", "settled")
        ]
        returned = f"{row['return_mean']:.1f} ± {row['return_std']:.1f}"
        errors = (f"{row['latent_error']:.2f}", f"{row['return_error']:.2f}")
        table.add_row(row["agent"], f"{row['macs_left']:.1%}", returned, *shares, *errors)
    Console().print(table)
