"""The film of a run: two seconds of the agent before it learned, then an episode of today's."""

import dataclasses
from math import ceil
from pathlib import Path

import torch

from tdmpc.agent import Agent
from tdmpc.config import TrainConfig
from tdmpc.evaluation import EVALUATION_STREAM, Evaluation, evaluate, frame_rate
from tdmpc.spec import EnvSpec
from tdmpc.video import write_video

SECONDS = 2.0
"""Of the untrained agent."""


def write_film(path: Path, result: Evaluation, config: TrainConfig, spec: EnvSpec) -> None:
    """Write what an evaluation recorded, behind the same task as the untrained agent plays it.

    Args:
        path: an mp4.
        result: of the trained agent.
        config: with the widths before any pruning.
        spec: the environment.
    """
    rate = frame_rate(spec)
    with torch.random.fork_rng(devices=[]):  # an agent is made on the CPU
        torch.manual_seed(config.seed)
        untrained = Agent(dataclasses.replace(config, compile=False), spec)
    before = evaluate(
        untrained,
        step=0,
        episodes=1,
        seed=config.seed + EVALUATION_STREAM,
        record=True,
        decisions=ceil(SECONDS * rate),
    )
    write_video(path, [*before.frames, *result.frames], rate)
