"""Attack the stack: kill it, feed it what no one should, flip its bits, and see whether its laws hold.

    make attack
    .venv/bin/python -m tests.attack [--seed 0] [--only kills bits] [--scale 1.0] [--case PATTERN]

Prints a line for each finding, with the command that repeats it, and a summary; exits 1 where there is a finding.
"""

import argparse
import importlib
import shlex
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from tests.attack.cases import Case

PARTS = {
    "kills": "SIGKILL in the middle of training, then --resume",
    "environments": "environments that do what none should",
    "commands": "command lines that cannot work",
    "bits": "flipped bits in runs and bundles",
    "controller": "decisions about hostile observations",
    "connections": "robots that are connected wrongly, and rightly",
}


class Tally(NamedTuple):
    """What came of a part."""

    part: str
    tried: int
    findings: int
    seconds: float


def main(arguments: list[str] | None = None) -> int:
    """Parse, attack, sum up."""
    parser = argparse.ArgumentParser("tests.attack", description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the cases, or a multiple of them")
    parser.add_argument("--case", default="*", metavar="PATTERN", help="only the cases of this name")
    args = parser.parse_args(arguments)
    tallies = [attack(part, seed=args.seed, scale=args.scale, pattern=args.case) for part in args.only]
    print(f"\n{'part':<14}{'tried':>8}{'findings':>10}{'seconds':>9}")
    for tally in tallies:
        print(f"{tally.part:<14}{tally.tried:>8,}{tally.findings:>10}{tally.seconds:>9.0f}   {PARTS[tally.part]}")
    return 1 if any(tally.findings for tally in tallies) else 0


def attack(part: str, *, seed: int, scale: float, pattern: str = "*") -> Tally:
    """Try the cases of a part, and tell each finding as it comes."""
    begun, tried, findings = time.monotonic(), 0, 0
    for case in importlib.import_module(f"tests.attack.{part}").cases(seed, scale):
        if not fnmatchcase(case.name, pattern):
            continue
        tried += case.tries
        for what in found(case):
            findings += 1
            again = f"--seed {seed} --scale {scale:g} --only {part} --case {shlex.quote(case.name)}"
            print(f"FINDING {part}, {case.name}: {what}\n    again: python -m tests.attack {again}", flush=True)
    return Tally(part, tried, findings, time.monotonic() - begun)


def found(case: Case) -> Iterator[str]:
    """What a case finds; its folder stays where it finds something."""
    folder = Path(tempfile.mkdtemp(prefix="tdmpc-attack-"))
    findings = []
    try:
        findings += case.attack(folder)
    except Exception as error:  # else one case that goes wrong would hide what all others find
        traceback.print_exc()
        findings.append(f"the attack itself failed: {type(error).__name__}: {error}")
    yield from (f"{what} [{folder}]" for what in findings)
    if not findings:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
