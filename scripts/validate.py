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
from deploy.validation import Validation, validate
from scripts import ranges
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
    precision: Literal["float32", "auto"] = "float32"
    """``auto``: bfloat16 where backend and processor have it."""
    threads: int = 1
    json: bool = False
    """Print one JSON object instead of a table."""


def main(arguments: list[str]) -> int:
    """Parse, play, print; status 1 where the bundle does not plan as its agent."""
    args = tyro.cli(ValidateArgs, args=arguments, prog="tdmpc validate")
    ranges.check(args, ConfigError, positive=["episodes", "threads"], not_negative=["seed"])
    torch.set_num_threads(args.threads)
    runtime = Runtime(backend=args.backend, threads=args.threads, precision=args.precision)
    found = validate(args.bundle, runtime, run=args.run, episodes=args.episodes, seed=args.seed)
    failures, remarks = found.failures(), found.remarks()
    summary = {
        "result": "failed" if failures else "passed",
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
        "golden_deviation": found.golden_deviation,
        **_judged(found),
    }
    if args.json:
        print(json.dumps({**summary, "failures": failures, "remarks": remarks}))
    else:
        show(summary, title=str(args.bundle))
        print(*(f"Failed: {failure}." for failure in failures), *remarks, sep="\n")
    return 1 if failures else 0


def _judged(found: Validation) -> dict[str, float]:
    """What the plans are worth in the agent's own model, and in single precision how far its numbers are off."""
    if found.parity is None:
        assert found.regret is not None
        return {"regret": found.regret.mean, "policy_regret": found.regret.policy, "value": found.regret.value}
    compared = found.parity
    differences = {"max_value_difference": compared.values, "ties": compared.ties}
    return {**differences, "regret": compared.regret, "gain": compared.gain}
