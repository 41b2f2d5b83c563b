"""``tdmpc demo``: from nothing to a pruned and a dense agent, report, films and controllers, in minutes on a CPU."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from compression.config import PruneConfig
from scripts import export, latency, report, validate
from scripts.evaluate import show
from scripts.train import TrainArgs, start
from tdmpc import runs
from tdmpc.config import preset

ENV = "dm_control/cartpole-swingup-v0"
ENV_STEPS = 24_000
TARGET = 0.75
"""Share of a plan's multiply-adds that pruning removes."""


@dataclass(frozen=True)
class DemoArgs:
    """Train on cartpole-swingup, once as it is and once pruned on the way; export, check and time both."""

    run_dir: Path = Path("runs/demo")
    """New folder for the pruned run; the dense one goes into its folder ``dense``."""
    seed: int = 0
    threads: int = 0
    """Threads of the tensor library; 0 for all cores."""


def main(arguments: list[str]) -> int:
    """Train, report, export, validate, time."""
    args = tyro.cli(DemoArgs, args=arguments, prog="tdmpc demo")
    folder = args.run_dir if not args.run_dir.exists() else runs.unused(args.run_dir.parent, args.run_dir.name)
    config = dataclasses.replace(preset("default", ENV), env_steps=ENV_STEPS, seed=args.seed, threads=args.threads)
    agents = {folder: PruneConfig(target=TARGET), folder / "dense": PruneConfig()}
    summaries = {
        where: start(TrainArgs(config, run_dir=where, video=True, prune=prune)) for where, prune in agents.items()
    }
    status = _deploy(list(agents))
    report.main([str(folder)])
    for where, summary in summaries.items():
        show(summary, title=str(where))
    return status


def _deploy(folders: Sequence[Path]) -> int:
    """Controllers of the runs: exported, played beside their agents, timed call by call; not 0 where one is wrong."""
    bundles = [folder / f"{folder.name}-bundle" for folder in folders]  # the tables show their names
    for folder, bundle in zip(folders, bundles, strict=True):
        export.main([str(folder), "--out", str(bundle)])
    status = max(validate.main([str(bundle), "--episodes", "3"]) for bundle in bundles)
    latency.main([*map(str, bundles), "--torch", *map(str, folders), "--calls", "200", "--seconds", "2"])
    return status
