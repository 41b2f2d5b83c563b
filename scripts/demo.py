"""``tdmpc demo``: from nothing to a trained agent, its curve, film and figures, in a few minutes on a CPU."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import tyro

from scripts.evaluate import show
from scripts.train import TrainArgs, start
from tdmpc import runs
from tdmpc.config import preset

ENV = "dm_control/cartpole-swingup-v0"
ENV_STEPS = 24_000


@dataclass(frozen=True)
class DemoArgs:
    """Train on cartpole-swingup with the default preset, evaluate 10 episodes, film the first."""

    run_dir: Path = Path("runs/demo")
    """New folder for the run."""
    seed: int = 0
    threads: int = 0
    """Threads of the tensor library; 0 for all cores."""


def main(arguments: list[str]) -> int:
    """Train, evaluate, show."""
    args = tyro.cli(DemoArgs, args=arguments, prog="tdmpc demo")
    config = dataclasses.replace(
        preset("default", ENV), env_steps=ENV_STEPS, eval_episodes=10, seed=args.seed, threads=args.threads
    )
    folder = args.run_dir if not args.run_dir.exists() else runs.unused(args.run_dir.parent, args.run_dir.name)
    summary = start(TrainArgs(config, run_dir=folder, video=True))
    show(summary, title=str(folder))
    return 0
