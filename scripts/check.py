"""``tdmpc check``: whether a robot is connected as its bundle expects."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from tdmpc.deploy import bundle, connection, logs, plausibility


@dataclass(frozen=True)
class CheckArgs:
    """Hold what a robot says of itself, or what it recorded, against a bundle.

    With neither, print the bundle's contract: copy it, and change it to what the robot is.
    """

    bundle: Annotated[Positional[Path], tyro.conf.arg(metavar="DIR")]
    """Controller bundle."""
    contract: Path | None = None
    """The robot's own description, in YAML: names, units, ranges, period, delay."""
    log: Path | None = None
    """Recorded sensors and actions (.csv, .npz, .mcap), in which everything moves: a minute is enough."""


def main(arguments: list[str]) -> int:
    """Parse, compare, tell; status 1 where something is connected wrongly."""
    args = tyro.cli(CheckArgs, args=arguments, prog="tdmpc check")
    described, wrong, hidden = bundle.read(args.bundle), list[str](), list[str]()
    if args.contract is None and args.log is None:
        print(connection.write(connection.contract(described)), end="")
        return 0
    if args.contract is not None:
        wrong += connection.differences(described, connection.read(args.contract))
    if args.log is not None:
        law, rows = plausibility.read(described), logs.transitions(described, logs.read(args.log, described))
        verdict = plausibility.examine(law, *rows, logs.sensors(described))
        found, hidden = plausibility.told(verdict, logs.names(described), law)
        wrong += found
    print(*(f"Wrong: {line}." for line in wrong), *(f"This log cannot tell: {line}." for line in hidden), sep="\n")
    print("failed" if wrong else "passed")
    return 1 if wrong else 0
