"""``tdmpc plot``: learning curves of several runs in one figure."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import tyro
from tyro.conf import Positional

from tdmpc import runs
from tdmpc.env_names import resolve
from tdmpc.scripts.report.training import PUBLISHED, learning_curve


@dataclass(frozen=True)
class PlotArgs:
    """Draw the learning curves of runs, beside the published curve where there is one."""

    curves: Positional[tuple[Path, ...]]
    """Run folders, or learning_curve.csv tables."""
    out: Path = Path("curves.png")
    """File for the figure."""
    env: str = ""
    """Draw the published curve of this environment."""
    title: str = ""
    """Title of the figure."""


def main(arguments: list[str]) -> int:
    """Read, draw, say where."""
    args = tyro.cli(PlotArgs, args=arguments, prog="tdmpc plot")
    published = PUBLISHED.get(resolve(args.env)) if args.env else None
    curves = {_label(path): _rows(path) for path in args.curves}
    learning_curve(curves, args.out, title=args.title, published=published)
    print(args.out)
    return 0


def _label(path: Path) -> str:
    return path.stem if path.suffix else path.name


def _rows(path: Path) -> list[dict[str, Any]]:
    table = path / runs.CURVE_TABLE if path.is_dir() else path
    try:
        rows = pd.read_csv(table).astype({"kind": str, "env_steps": int, "return": float})
    except (OSError, KeyError, ValueError) as error:
        raise runs.RunError(f"{table} is no learning curve ({error}); a finished run has one") from error
    return rows.assign(return_mean=rows["return"]).to_dict("records")
