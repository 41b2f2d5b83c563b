"""``tdmpc results``: keep what suites found in results/, and show it in the pages."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from tdmpc.scripts.collect import RUNS, collect
from tdmpc.scripts.csv_tables import read_table, write_table
from tdmpc.scripts.errors import ResultsError


@dataclass(frozen=True)
class Collect:
    """Make small CSV tables from the runs of a suite.

    They replace the earlier tables of this suite, but for the rows of runs that were finished elsewhere only.
    """

    suite: Annotated[Positional[Path], tyro.conf.arg(metavar="SUITE")]
    """Folder of the suite: runs/suites/NAME."""
    out: Path | None = None
    """Folder of the tables; results/NAME when not given."""
    revision: str = ""
    """Commit of the program that made the runs. Only runs that were not started from a checkout need it."""


@dataclass(frozen=True)
class Render:
    """Fill the blocks of README.md, results/README.md and docs/*.md, and draw their figures, from results/."""

    check: bool = False
    """Write nothing. Name what is not up to date, and exit with 1 if there is anything."""
    root: Path = Path()
    """The checkout."""


def main(arguments: list[str]) -> int:
    """Parse, collect or render."""
    command = tyro.cli(
        Annotated[Collect, tyro.conf.subcommand("collect")] | Annotated[Render, tyro.conf.subcommand("render")],
        args=arguments,
        prog="tdmpc results",
    )
    return _collect(command) if isinstance(command, Collect) else _render(command)


def _collect(args: Collect) -> int:
    tables = collect(args.suite, revision=args.revision)
    out = args.out or Path("results") / args.suite.resolve().name
    out.mkdir(parents=True, exist_ok=True)
    runs = [(_name(row), row["status"]) for row in tables[RUNS]]
    before = {_name(row) for row in _read(out / RUNS) if row["status"] == "finished"}
    elsewhere = {name for name, status in runs if status != "finished" and name in before}
    order = [name for name, _ in runs]
    for name, rows in tables.items():
        kept = [row for row in _read(out / name) if _name(row) in elsewhere]
        new = [row for row in rows if _name(row) not in elsewhere]
        write_table(out / name, sorted([*new, *kept], key=lambda row: order.index(_name(row))))
        print(out / name)
    return 0


def _name(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Of the run that a row tells of."""
    return row["task"], row["method"], str(row["seed"])


def _read(path: Path) -> list[Mapping[str, Any]]:
    """The rows of an earlier table, if there is one."""
    return read_table(path, "task", "method", "seed").to_dict("records") if path.exists() else []


def _render(args: Render) -> int:
    try:
        from tdmpc.scripts.experiments.render import render
    except ModuleNotFoundError as error:  # a wheel has no experiments
        raise ResultsError("tdmpc results render works in a checkout of the project, with its pages") from error
    stale = render(args.root, write=not args.check)
    for path in stale:
        print(f"{path} is not up to date; mend it by: make results" if args.check else path)
    return 1 if args.check and stale else 0
