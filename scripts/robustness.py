"""``tdmpc robustness``: return of agents under each perturbation, against its strength."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import torch
import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from tdmpc.agent import Agent
from tdmpc.config import ConfigError, PerturbConfig
from tdmpc.config_checks import check_delay
from tdmpc.env_names import UnsupportedEnvironment
from tdmpc.evaluation import EVALUATION_STREAM, evaluate
from tdmpc.files import write_whole
from tdmpc.runs import load_agents
from tdmpc.scripts import ranges
from tdmpc.scripts.report.style import colours, legend, panels, save, styled

log = logging.getLogger("tdmpc")

Perturbation = Literal[
    "observation_delay",
    "observation_noise",
    "dropped_sensors",
    "stuck_sensors",
    "action_noise",
    "masses",
    "friction",
    "damping",
    "gains",
]
FAULTS = {0.01: 1, 0.05: 5, 0.1: 10}
"""Chance that a reading fails, and for how many decisions: the easy, medium and hard challenge of arXiv 2003.11881."""
STRENGTHS: dict[Perturbation, tuple[float, ...]] = {
    "observation_delay": (1, 2, 3),
    "observation_noise": (0.1, 0.3, 1.0),
    "dropped_sensors": tuple(FAULTS),
    "stuck_sensors": tuple(FAULTS),
    "action_noise": (0.1, 0.3, 1.0),
    "masses": (0.2, 0.4, 0.8),
    "friction": (0.2, 0.4, 0.8),
    "damping": (0.2, 0.4, 0.8),
    "gains": (0.2, 0.4, 0.8),
}
"""Noise and faults are those of the challenges. Their delays are 3, 6 and 9 steps of the simulator: a decision has
several."""
UNITS: dict[str, str] = {
    "observation_delay": "decisions",
    "observation_noise": "deviation, sensor units",
    "dropped_sensors": "chance per reading",
    "stuck_sensors": "chance per reading",
    "action_noise": "deviation, half ranges",
}
"""Of the strengths; those of a model are the largest relative change."""
NONE = "none"
"""What a table calls the simulator as it is."""

Row = dict[str, Any]


@dataclass(frozen=True)
class RobustnessArgs:
    """Play agents of one environment under each perturbation at several strengths. All play the same episodes."""

    runs: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")]
    """Run folders."""
    only: tuple[Perturbation, ...] = ()
    """Perturbations to play; all that the environment can have when not given."""
    episodes: int = 10
    """Episodes of each agent at each strength."""
    seed: int = EVALUATION_STREAM
    """Seed of episodes, perturbations and planner noise. It is the same for all agents."""
    out: Path = Path("robustness")
    """Name of the table and the figure, without .csv and .png."""
    device: str = "cpu"
    """Torch device."""
    threads: int = 0
    """Threads of the tensor library; 0 for all cores."""


def main(arguments: list[str]) -> int:
    """Parse, play, tabulate, draw."""
    args = tyro.cli(RobustnessArgs, args=arguments, prog="tdmpc robustness")
    ranges.check(args, ConfigError, positive=["episodes"], not_negative=["seed", "threads"])
    if args.threads:
        torch.set_num_threads(args.threads)
    loaded = load_agents(args.runs, example="tdmpc robustness runs/walker-walk-v0-0", device=args.device, compile=False)
    agents = {name: (agent, step) for name, (_, agent, step) in loaded.items()}
    rows: list[Row] = []
    for row in _played(agents, args):
        rows.append(row)
        table = pd.DataFrame(rows, dtype=object).to_csv(index=False, lineterminator="\n")
        write_whole(args.out.with_suffix(".csv"), table.encode())  # each time: hours of play may be interrupted
    draw(rows, args.out.with_suffix(".png"))
    Console().print(_table(rows))
    print(args.out.with_suffix(".csv"))
    print(args.out.with_suffix(".png"))
    return 0


def _played(agents: dict[str, tuple[Agent, int]], args: RobustnessArgs) -> Iterator[Row]:
    """A row for each perturbation, strength and agent; first the simulator as it is."""
    yield from (_row(NONE, 0.0, name, *agents[name], args) for name in agents)
    for perturbation in args.only or STRENGTHS:
        try:
            for strength in STRENGTHS[perturbation]:
                yield from (_row(perturbation, strength, name, *agents[name], args) for name in agents)
        except UnsupportedEnvironment as refused:
            if args.only:
                raise
            log.warning("%s is left out: %s", perturbation, refused)


def _row(perturbation: str, strength: float, name: str, agent: Agent, step: int, args: RobustnessArgs) -> Row:
    agent.config = dataclasses.replace(agent.config, perturb=perturbed(perturbation, strength))
    check_delay(agent.config, agent.spec)
    result = evaluate(agent, step=step, episodes=args.episodes, seed=args.seed)
    log.info("%s %g, %s: return %.1f +- %.1f", perturbation, strength, name, result.return_mean, result.return_std)
    return {
        "perturbation": perturbation,
        "strength": strength,
        "agent": name,
        "return_mean": round(result.return_mean, 3),
        "return_std": round(result.return_std, 3),
        "episodes": args.episodes,
        "diverged": result.diverged,
        "action_variation": round(result.action_variation, 4),
    }


def perturbed(perturbation: str, strength: float) -> PerturbConfig:
    """One perturbation alone, whatever the agent was trained with."""
    if perturbation == NONE:
        return PerturbConfig()
    kind = int if perturbation == "observation_delay" else float
    return PerturbConfig(**{perturbation: kind(strength), "fault_decisions": FAULTS.get(strength, 1)})


def _table(rows: Sequence[Row]) -> Table:
    """Return by perturbation and strength, agents side by side."""
    agents = list(dict.fromkeys(row["agent"] for row in rows))
    table = Table("perturbation", "strength", *agents, title=f"return, {rows[0]['episodes']} episodes")
    cells: dict[tuple[str, float], list[str]] = {}
    for row in rows:
        cell = f"{row['return_mean']:.1f} ± {row['return_std']:.1f}"
        cells.setdefault((row["perturbation"], row["strength"]), []).append(cell)
    for (perturbation, strength), returns in cells.items():
        table.add_row(perturbation.replace("_", " "), f"{strength:g}", *returns)
    return table


@styled
def draw(rows: Sequence[Row], path: Path) -> None:
    """Return against strength: a panel for each perturbation, a line for each agent with a bar of one deviation."""
    kinds = list(dict.fromkeys(row["perturbation"] for row in rows if row["perturbation"] != NONE))
    agents = colours(list(dict.fromkeys(row["agent"] for row in rows)))
    figure, drawn = panels(len(kinds), columns=3, width=3, height=2.2)
    for kind, axes in zip(kinds, drawn, strict=True):
        for agent, colour in agents.items():
            mine = [row for row in rows if row["agent"] == agent and row["perturbation"] in (NONE, kind)]
            x, y, deviation = ([row[name] for row in mine] for name in ("strength", "return_mean", "return_std"))
            axes.errorbar(x, y, deviation, color=colour, marker="o", markersize=4, linewidth=1.5, capsize=2)
        axes.set_title(kind.replace("_", " "))
        axes.set(xlabel=UNITS.get(kind, "largest relative change"), ylabel="return")
    legend(figure, agents.items())
    save(figure, path)
