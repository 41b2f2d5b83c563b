"""``tdmpc validate``: a bundle in its environment, beside the agent that it was made of."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from tyro.conf import Positional

from tdmpc.config import ConfigError
from tdmpc.deploy import bundle, simulation
from tdmpc.deploy.backends import BackendName, Runtime
from tdmpc.deploy.bundle import BundleError
from tdmpc.deploy.simulation import Latency, real_time
from tdmpc.deploy.validation import Validation, validate
from tdmpc.evaluation import EVALUATION_STREAM
from tdmpc.scripts import ranges
from tdmpc.scripts.evaluate import show


@dataclass(frozen=True)
class ValidateArgs:
    """Play episodes with a bundle and compare every decision with its agent's. Play as many with the agent alone.

    With ``--real-time``, the simulator's clock goes on while the bundle plans. The same episodes are also played with a
    simulator that waits. The agent is not needed then.
    """

    bundle: Annotated[Positional[Path], tyro.conf.arg(metavar="DIR")]
    """Controller bundle."""
    run: Path | None = None
    """Run that the bundle was exported from; the folder that the run had at the export when not given."""
    episodes: int = 10
    """Episodes of the bundle, and as many of the agent."""
    seed: int | None = None
    """Seed of episodes and planner noise; the run's evaluation seed when not given."""
    backend: BackendName = "onnxruntime"
    """What runs the graphs."""
    precision: Literal["float32", "auto"] = "float32"
    """``auto`` takes bfloat16 where the backend and the processor have it."""
    threads: int = 1
    """Threads of the runtime and of the tensor library."""
    real_time: bool = False
    """Play without waiting for decisions: until an action is there, the action before it goes on. Decisions take as
    long as they take here, or as long as the next three options say."""
    latency: Path | None = None
    """In real time: output of ``tdmpc latency --json`` for this bundle. Each decision draws its time from there."""
    latency_ms: float | None = None
    """In real time: each decision takes this long."""
    slowdown: float = 1.0
    """In real time: decisions take this many times as long, as on a slower processor."""
    policy: Literal["planner", "prior"] = "planner"
    """In real time: ``prior`` plays with the policy network alone."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(arguments: list[str]) -> int:
    """Parse, play, print; status 1 where the bundle does not plan as its agent."""
    args = tyro.cli(ValidateArgs, args=arguments, prog="tdmpc validate")
    _check(args)
    torch.set_num_threads(args.threads)
    runtime = Runtime(backend=args.backend, threads=args.threads, precision=args.precision)
    if args.real_time:
        _play_in_real_time(args, runtime)
        return 0
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


def _check(args: ValidateArgs) -> None:
    positive = ["episodes", "threads", "slowdown"]
    ranges.check(args, ConfigError, positive=positive, not_negative=["seed", "latency_ms"])
    given = {"--latency": args.latency, "--latency-ms": args.latency_ms}
    given |= {"--slowdown": args.slowdown != 1 or None, "--policy": args.policy == "prior" or None}
    if unused := [name for name, value in given.items() if value is not None and not args.real_time]:
        raise ConfigError(
            f"{unused[0]} says how long decisions take, or who makes them, in real time: give --real-time"
        )
    if args.latency is not None and args.latency_ms is not None:
        raise ConfigError("--latency and --latency-ms both say how long decisions take: give one of them")


def _play_in_real_time(args: ValidateArgs, runtime: Runtime) -> None:
    described = bundle.read(args.bundle)
    seed = described.manifest["training"].get("seed", 0) + EVALUATION_STREAM if args.seed is None else args.seed
    latency = _latency(args, described, runtime, seed)
    found = real_time(args.bundle, runtime, latency, policy=args.policy, episodes=args.episodes, seed=seed)
    took = np.array(found.latencies_ms)
    summary = {
        "bundle": str(args.bundle),
        "policy": args.policy,
        "delay": described.delay if args.policy == "planner" else 0,
        "episodes": args.episodes,
        "slowdown": args.slowdown,
        "return_mean": float(np.mean(found.returns)),
        "return_std": float(np.std(found.returns)),
        "waiting_return_mean": float(np.mean(found.waiting_returns)),
        "releases": found.releases,
        "late": found.late,
        "latency_ms_p50": float(np.median(took)),
        "latency_ms_p99": float(np.percentile(took, 99)),
        "control_period_ms": described.control_period_ms,
        "action_variation": found.action_variation,
    }
    print(json.dumps(summary)) if args.json else show(summary, title=f"{args.bundle} in real time")


def _latency(args: ValidateArgs, described: bundle.Bundle, runtime: Runtime, seed: int) -> Latency:
    if args.latency_ms is not None:
        return simulation.constant(args.slowdown * args.latency_ms)
    if args.latency is not None:
        if args.policy == "prior":
            raise BundleError("--latency holds times of the planner: give --latency-ms for the policy alone")
        quantiles = simulation.quantiles_of(args.latency, described, runtime)
        return simulation.drawn(quantiles, args.slowdown, seed)
    return simulation.measured(args.slowdown)


def _judged(found: Validation) -> dict[str, float]:
    """What the plans are worth in the agent's own model, and in single precision how far its numbers are off."""
    if found.parity is None:
        assert found.regret is not None
        return {"regret": found.regret.mean, "policy_regret": found.regret.policy, "value": found.regret.value}
    compared = found.parity
    differences = {"max_value_difference": compared.values, "ties": compared.ties}
    return {**differences, "regret": compared.regret, "gain": compared.gain}
