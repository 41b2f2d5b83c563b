"""The agent itself in PyTorch, to be timed beside its bundle: what a bundle has to be quicker than."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch

from tdmpc.actor import Actor
from tdmpc.config import Linear, Precision
from tdmpc.deploy.timing import Timed
from tdmpc.macs import planning_macs
from tdmpc.runs import load_agent


def timed_agent(run: Path, *, threads: int, precision: Precision | None = None, horizon: int | None = None) -> Timed:
    """The agent of a run as ``tdmpc evaluate`` has it.

    Args:
        run: a run folder.
        threads: of the tensor library.
        precision: of the agent; the one of its training when not given.
        horizon: decisions planned ahead; the full horizon, as a trained agent plans, when not given.
    """
    torch.set_num_threads(threads)
    started = time.perf_counter()
    chosen: dict[str, Any] = {} if precision is None else {"precision": precision}
    agent, meta = load_agent(run, device="cpu", compile=False, **chosen)
    load_s = time.perf_counter() - started
    planner = agent.config.planner
    horizon = horizon or planner.horizon
    planner = dataclasses.replace(planner, horizon=horizon, horizon_schedule=Linear(horizon, horizon, 0))
    agent.config = dataclasses.replace(agent.config, planner=planner)
    actor, step = Actor(agent, lanes=1, seed=0), meta["agent_steps"]
    observation = torch.randn(1, agent.spec.observation_dim)
    facts = {
        "bundle": str(run),
        "backend": "torch",
        "language": "python",
        "precision": agent.precision,
        "threads": threads,
        "spinning": None,
        "deadline_ms": None,
        "pipelined": None,
        "macs": sum(planning_macs(agent.config.model, agent.spec, planner).values()),
        "bytes": sum(4 * parameter.numel() for parameter in agent.model.parameters()),
        "load_s": load_s,
        "return_mean": None,
        "model": str(run),
    }
    return Timed(facts, lambda _: actor.act(observation, step=step, explore=False))
