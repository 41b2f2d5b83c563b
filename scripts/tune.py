"""``tdmpc tune``: of some agents and all their planners, the controller that returns most within a control period."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from tdmpc.config import ConfigError
from tdmpc.deploy.bundle import BundleError
from tdmpc.scripts import ranges
from tdmpc.scripts.csv_tables import write_table
from tdmpc.scripts.report.frontier import draw, frontier
from tdmpc.scripts.tune_search import Row, Search

FILE_WIDTH = 120
"""Characters in a line of the table where it goes to no terminal."""


@dataclass(frozen=True)
class TuneArgs:
    """Find the controller that returns most among those that decide within a period: over agents, planners, runtimes.

    What was found is kept beside the bundle in BUNDLE.sqlite3; the same command goes on with it.
    """

    runs: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")]
    """Run folders of one task, for example dense and pruned at several targets."""
    period_ms: float
    """Control period."""
    out: Path
    """New folder for the bundle; table, figure and search lie beside it."""
    share: float = 0.5
    """Part of the period that the 99th percentile of a decision may take. A plan for a delay has as many periods."""
    slowdown: float = 1.0
    """The board is so many times slower than this machine."""
    latency_at: Path | None = None
    """What ``tdmpc latency --json`` printed on the board, instead of a slowdown: it is compared with the same bundles
    here, in each runtime. They lie where they lay there, or beside the file."""
    trials: int = 100
    """Candidates, at most."""
    minutes: float = 5.0
    """For the search, at most; measurements before and after it come on top."""
    episodes: int = 10
    """Of a candidate that is not stopped earlier."""
    fresh_episodes: int = 20
    """On which the last few are compared."""
    seed: int = 0
    """Of episodes, planner noise and search."""
    threads: int = 1
    """Of the tensor library, and of the runtime that is timed."""
    priority: int | None = None
    """Real-time priority while something is timed, 2 to 99 (Linux; needs the right to it): of use on a busy machine."""


def main(arguments: list[str]) -> int:
    """Parse, measure, search, compare, export, show."""
    args = tyro.cli(TuneArgs, args=arguments, prog="tdmpc tune")
    _check(args)
    torch.set_num_threads(args.threads)
    search = Search(args)
    try:
        search.run()
        search.export()
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; what was found is kept. Go on with the same command") from None
    finally:
        _write(search.rows(), args)
    _show(search.rows(), args)
    return 0


def _check(args: TuneArgs) -> None:
    counts = ["trials", "episodes", "fresh_episodes", "threads"]
    ranges.check(
        args, ConfigError, positive=["period_ms", "share", "slowdown", "minutes", *counts], not_negative=["seed"]
    )
    if args.share > 1:
        raise ConfigError(f"--share must be at most 1, the whole period, got {args.share:g}")
    if args.latency_at is not None and args.slowdown != 1:
        raise ConfigError("--latency-at and --slowdown both say how slow the board is: give one of them")
    if args.out.exists():
        raise BundleError(f"{args.out} exists and is never overwritten: choose another --out, or remove it")


def _write(rows: list[Row], args: TuneArgs) -> None:
    """Table and figure of what was played so far."""
    if rows:
        write_table(args.out.with_name(f"{args.out.name}.csv"), rows)
        draw(rows, args.out.with_name(f"{args.out.name}.png"), limit_ms=args.share * args.period_ms)


def _show(rows: list[Row], args: TuneArgs) -> None:
    """The frontier and the finalists, from the quickest on."""
    best = frontier(row for row in rows if not row["stopped"])
    shown = [row for row in rows if row in best or row["fresh_return_mean"] is not None]
    limit = f"{args.share:g} of {args.period_ms:g} ms"
    table = Table("controller", "runtime", "p99, ms", "return", "fresh episodes", "", title=f"decisions within {limit}")
    for row in sorted(shown, key=lambda row: row["p99_ms"]):
        fresh = row["fresh_return_mean"]
        worth = [f"{row['return_mean']:.1f}", "" if fresh is None else f"{fresh:.1f}"]
        remark = "chosen" if row["chosen"] else "" if row["fits"] else "too slow"
        table.add_row(row["candidate"], row["runtime"], f"{row['p99_ms']:.3g}", *worth, remark)
    Console(width=None if sys.stdout.isatty() else FILE_WIDTH).print(table)
    for ending in ("", ".csv", ".png", ".sqlite3"):
        print(args.out.with_name(f"{args.out.name}{ending}"))
