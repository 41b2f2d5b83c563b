"""``tdmpc validate``: a bundle in its environment, beside the agent that it was made of."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from tyro.conf import Positional

from deploy.backends import BackendName, Runtime
from deploy.parity import TOLERANCE
from deploy.validation import validate
from scripts.evaluate import show
from tdmpc.config import ConfigError


@dataclass(frozen=True)
class ValidateArgs:
    """Play episodes with a bundle, compare every decision with its agent's, and play as many with the agent alone."""

    bundle: Annotated[Positional[Path], tyro.conf.arg(metavar="DIR")]
    """Controller bundle."""
    run: Path | None = None
    """Run that it was exported from; where it was then when not given."""
    episodes: int = 10
    seed: int | None = None
    """Of episodes and planner noise; the run's evaluation seed when not given."""
    backend: BackendName = "onnxruntime"
    precision: Literal["fp32", "auto"] = "fp32"
    """``auto``: bfloat16 where backend and processor have it."""
    threads: int = 1
    json: bool = False
    """Print one JSON object instead of a table."""


def main(arguments: list[str]) -> int:
    """Parse, play, print; status 1 where the bundle decides otherwise than its agent."""
    args = tyro.cli(ValidateArgs, args=arguments, prog="tdmpc validate")
    if args.episodes < 1:
        raise ConfigError(f"--episodes must be at least 1, got {args.episodes}")
    torch.set_num_threads(args.threads)
    runtime = Runtime(backend=args.backend, threads=args.threads, precision=args.precision)
    found = validate(args.bundle, runtime, run=args.run, episodes=args.episodes, seed=args.seed)
    summary = {
        "bundle": str(args.bundle),
        "backend": args.backend,
        "precision": found.precision,
        "episodes": args.episodes,
        "bundle_return_mean": float(np.mean(found.bundle_returns)),
        "bundle_return_std": float(np.std(found.bundle_returns)),
        "torch_return_mean": float(np.mean(found.torch_returns)),
        "torch_return_std": float(np.std(found.torch_returns)),
        "decisions": found.decisions,
        "max_action_difference": found.max_action_difference,
        "undecided": found.undecided,
        "golden_deviation": found.golden_deviation,
    }
    if args.json:
        print(json.dumps(summary))
    else:
        show(summary, title=str(args.bundle))
    differs = found.precision == "fp32" and found.max_action_difference > TOLERANCE
    return 1 if differs else 0
