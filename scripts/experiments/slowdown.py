"""Return in real time on slower and slower processors: the figure that says which board is quick enough.

    python -m tdmpc.scripts.experiments.slowdown cartpole-swingup --dense RUN... --pruned RUN... --work FOLDER

Decisions are timed once, on this machine, and drawn from these times, so much slower. A bundle is made for the delay of
its slowest plan in a hundred. Bundles and times stay in ``--work``; what is there is not made again.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from tyro.conf import Positional

from tdmpc import machine
from tdmpc.deploy import bundle, contract, percentiles
from tdmpc.deploy.backends import Runtime
from tdmpc.deploy.export import export
from tdmpc.deploy.original import ExportConfig
from tdmpc.deploy.simulation import drawn, real_time
from tdmpc.deploy.timing import Timed, single_stream, timed_controller
from tdmpc.files import write_whole
from tdmpc.scripts.csv_tables import add_rows
from tdmpc.scripts.experiments.printed import SLOWDOWN

AS_IT_IS, DENSE, PRUNED, POLICY = "dense, as it is", "dense, plans ahead", "pruned, plans ahead", "policy alone"
WAITS = "dense, the simulator waits"


@dataclass(frozen=True)
class SlowdownArgs:
    """Play bundles of runs in real time, at each slowdown."""

    task: Annotated[Positional[str], tyro.conf.arg(metavar="TASK")]
    """As it is called in the table."""
    dense: tuple[Path, ...]
    """Runs of several seeds, trained without delay."""
    pruned: tuple[Path, ...]
    """Runs of the same seeds, pruned and trained for the delays that are needed."""
    work: Path
    """Folder for bundles and times."""
    out: Path = Path("results/real-time")
    """Folder of the table."""
    slowdowns: tuple[float, ...] = (1, 2, 5, 10, 20, 50, 100)
    """How many times slower than this machine the processors are."""
    episodes: int = 10
    """With each bundle at each slowdown."""
    seed: int = 1_000_003
    """Seed of the episodes, which are the same for all agents."""


def main(arguments: list[str]) -> int:
    """Play; each row is written as soon as it is known, and rows of other tasks stay."""
    args = tyro.cli(SlowdownArgs, args=arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    mine: list[dict[str, Any]] = []
    for row in _played(args):
        mine.append({"task": args.task, **row, "episodes": args.episodes, "processor": machine.processor()})
        print(json.dumps(mine[-1]), flush=True)
        add_rows(args.out / SLOWDOWN, mine)
    return 0


def _played(args: SlowdownArgs) -> Iterator[dict[str, Any]]:
    kinds = [(AS_IT_IS, args.dense), (POLICY, args.dense), (DENSE, args.dense), (PRUNED, args.pruned)]
    for method, runs in kinds:
        for seed, run in enumerate(runs):
            policy: Literal["planner", "prior"] = "prior" if method == POLICY else "planner"
            times = np.array(_times(args.work, run, policy))
            for slowdown in args.slowdowns:
                period = bundle.read(_bundle(args.work, run, 0)).control_period_ms or 0.0
                ahead = method in (DENSE, PRUNED)
                delay = ceil(slowdown * np.percentile(times, 99) / period) if ahead else 0
                latency, folder = drawn(times.tolist(), slowdown, args.seed), _bundle(args.work, run, delay)
                play = {"policy": policy, "episodes": args.episodes, "seed": args.seed}
                found = real_time(folder, Runtime(), latency, **play)
                row = {"seed": seed, "slowdown": slowdown, "delay": delay, "late": found.late / found.releases}
                row |= {"p99_ms": round(slowdown * float(np.percentile(times, 99)), 3)}
                yield {"method": method, **row, "return_mean": round(float(np.mean(found.returns)), 2)}
                if method == AS_IT_IS and slowdown == args.slowdowns[0]:
                    waiting = round(float(np.mean(found.waiting_returns)), 2)
                    yield {"method": WAITS, **row, "slowdown": 0, "late": 0.0, "return_mean": waiting}


def _bundle(work: Path, run: Path, delay: int) -> Path:
    folder = work / f"{run.name}-delay-{delay}"
    if not folder.exists():
        export(run, folder, ExportConfig(delay=delay))
    return folder


def _times(work: Path, run: Path, policy: Literal["planner", "prior"]) -> list[float]:
    """Quantiles of the milliseconds that a decision takes."""
    path = work / f"{run.name}-{policy}.json"
    if not path.exists():
        folder = _bundle(work, run, 0)
        timed = timed_controller(folder, Runtime()) if policy == "planner" else _timed_policy(folder)
        single_stream([timed], calls=500, seconds=5)
        write_whole(path, json.dumps(percentiles.quantiles(timed.times.every_ms)).encode())
    return json.loads(path.read_text())


def _timed_policy(folder: Path) -> Timed:
    described = bundle.read(folder)
    graph = contract.load(described, bundle.POLICY, Runtime())
    inputs = {name: np.zeros(shape, np.float32) for name, shape in graph.shapes.items()}
    return Timed({}, lambda _: graph(inputs))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
