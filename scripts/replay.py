"""``tdmpc replay``: decide again what a controller recorded."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from tyro.conf import Positional

from tdmpc.deploy import logs
from tdmpc.deploy.backends import BackendName, Runtime
from tdmpc.deploy.bundle import BundleError, read
from tdmpc.deploy.replay import replay
from tdmpc.scripts import ranges


@dataclass(frozen=True)
class ReplayArgs:
    """Decide again what ``Controller.load(..., record=FILE)`` recorded, and compare bit for bit."""

    file: Annotated[Positional[Path], tyro.conf.arg(metavar="FILE")]
    """MCAP file."""
    bundle: Path
    """Bundle that decided."""
    backend: BackendName = "onnxruntime"
    """Runtime that ran it."""
    threads: int = 1
    """Threads of the runtime then."""
    precision: Literal["float32", "auto"] = "float32"
    """``auto``: bfloat16 where backend and processor have it."""
    table: Path | None = None
    """File (.npz) to write sensors and actions into: a column for each sensor, ``action``, ``time``, ``episode``."""
    json: bool = False
    """Print one JSON object instead of sentences."""


def main(arguments: list[str]) -> int:
    """Parse, decide again, tell; status 1 where something differs."""
    args = tyro.cli(ReplayArgs, args=arguments, prog="tdmpc replay")
    ranges.check(args, BundleError, positive=["threads"])
    runtime = Runtime(backend=args.backend, threads=args.threads, precision=args.precision)
    found = replay(args.file, args.bundle, runtime)
    if args.table is not None:
        table: Any = logs.of_record(args.file, read(args.bundle))
        np.savez(args.table, **table)
    if args.json:
        print(json.dumps(asdict(found)))
    else:
        print(f"{found.decisions:,} decisions in {args.file}")
        for name, count, differ in (
            ("plans", found.plans, found.plans_differ),
            ("actions", found.actions, found.actions_differ),
        ):
            where = f"; the first is that of decision {differ[0]}" if differ else ""
            print(f"{count:,} {name} compared, {len(differ):,} differ{where}")
    return 1 if found.plans_differ or found.actions_differ else 0
