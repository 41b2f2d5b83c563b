"""Laws of the replay, most of them against a model that keeps every episode as a plain list."""

import sys
import tracemalloc
from dataclasses import replace
from math import fsum
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from tdmpc.config import ReplayConfig
from tdmpc.replay import Replay, SumTree
from tdmpc.spec import Batch

RUNS, TERMINATES, TRUNCATES, BOTH = range(4)


class Window(NamedTuple):
    """One sampled window in plain numbers."""

    observations: tuple[float, ...]
    actions: tuple[float, ...]
    rewards: tuple[float, ...]
    terminated: tuple[bool, ...]
    mask: tuple[float, ...]


class Row(NamedTuple):
    """One row of the model; the last of an episode has no action."""

    observation: float
    action: float | None = None
    reward: float = 0.0
    terminated: bool = False


class Model:
    """What the replay should hold: every row ever written, lane by lane."""

    def __init__(self, capacity: int, lanes: int, horizon: int) -> None:
        self.rows_kept = -(-capacity // lanes) + 1
        self.horizon = horizon
        self.lanes: list[list[Row]] = [[] for _ in range(lanes)]

    def add(self, lane: int, observation: float, action: float, reward: float, end: int, after: float) -> None:
        rows = self.lanes[lane]
        if rows and rows[-1].observation == observation:
            rows.pop()
        rows.append(Row(observation, action, reward, end in (TERMINATES, BOTH)))
        rows.append(Row(after))

    def transitions(self) -> int:
        return sum(row.action is not None for rows in self.lanes for row in rows[-self.rows_kept :])

    def windows(self) -> set[Window]:
        found = set()
        for rows in self.lanes:
            kept = rows[-self.rows_kept :]
            found |= {window for start in range(len(kept)) if (window := self.window(kept, start))}
        return found

    def window(self, rows: list[Row], start: int) -> Window | None:
        steps: list[Row] = []
        while len(steps) < self.horizon and not (steps and steps[-1].terminated):
            row = rows[start + len(steps)]
            if row.action is None:
                return None
            steps.append(row)
        masked = self.horizon - len(steps)
        last = rows[start + len(steps)].observation
        return Window(
            observations=(*(step.observation for step in steps), last, *[last] * masked),
            actions=(*(step.action or 0.0 for step in steps), *[0.0] * masked),
            rewards=(*(step.reward for step in steps), *[0.0] * masked),
            terminated=(*(step.terminated for step in steps), *[True] * masked),
            mask=(*[1.0] * len(steps), *[0.0] * masked),
        )


class Recorder:
    """Feeds a replay and its model the same episodes; no observation occurs twice."""

    def __init__(self, replay: Replay, model: Model) -> None:
        self.replay, self.model = replay, model
        self.count = 0
        self.now = [self.number() for _ in model.lanes]

    def number(self) -> float:
        self.count += 1
        return float(self.count)

    def step(self, *ends: int) -> None:
        actions = [self.number() / 4 for _ in ends]
        rewards = [self.number() / 2 for _ in ends]
        after = [self.number() for _ in ends]
        self.replay.add(
            observations(self.now),
            np.array(actions)[:, None],
            np.array(rewards),
            np.array([end in (TERMINATES, BOTH) for end in ends]),
            np.array([end in (TRUNCATES, BOTH) for end in ends]),
            observations(after),
        )
        for lane, end in enumerate(ends):
            self.model.add(lane, self.now[lane], actions[lane], rewards[lane], end, after[lane])
            self.now[lane] = after[lane] if end == RUNS else self.number()


def observations(values: list[float]) -> np.ndarray:
    """Two sensors, the second the negative of the first."""
    return np.array(values)[:, None] * [1.0, -1.0]


def make(capacity: int = 20, lanes: int = 1, horizon: int = 3, **config) -> Recorder:
    """An empty replay of two sensors and one action, its model, and what feeds both."""
    replay = Replay(
        ReplayConfig(capacity=capacity, **config), observation_dim=2, action_dim=1, horizon=horizon, lanes=lanes
    )
    return Recorder(replay, Model(capacity, lanes, horizon))


def windows(batch: Batch) -> list[Window]:
    assert torch.equal(batch.observations[..., 1], -batch.observations[..., 0])
    fields = (batch.observations[..., 0], batch.actions[..., 0], batch.rewards, batch.terminated, batch.mask)
    columns = [field.T.tolist() for field in fields]
    return [Window(*map(tuple, window)) for window in zip(*columns, strict=True)]


def equal(one: Batch, other: Batch) -> bool:
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(one, other, strict=True))


@st.composite
def recordings(draw: st.DrawFn) -> tuple[Recorder, list[tuple[int, ...]]]:
    """A small replay and how each lane's episode goes on or ends at each step, long enough to wrap."""
    horizon, lanes = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    capacity = lanes * horizon + draw(st.integers(0, 20))
    quiet = draw(st.integers(0, 8))
    end = st.sampled_from([RUNS] * quiet + [RUNS, TERMINATES, TRUNCATES, BOTH])
    steps = draw(st.lists(st.tuples(*[end] * lanes), min_size=1, max_size=50))
    return make(capacity, lanes, horizon), steps


@given(recordings(), st.integers(0, 49))
@settings(max_examples=150)
def test_windows_are_those_of_the_model(recording, checkpoint):
    """Every window sampled is one of a recorded episode, every such window is reached, and the counts agree."""
    recorder, steps = recording
    replay, model = recorder.replay, recorder.model
    rng = np.random.default_rng(0)
    for step, ends in enumerate(steps):
        recorder.step(*ends)
        expected = model.windows()
        assert (replay.windows, len(replay)) == (len(expected), model.transitions())
        if expected and step in (checkpoint, len(steps) - 1):
            batch = replay.sample(2048)
            assert set(windows(batch)) == expected
            assert len(np.unique(batch.indices)) == len(expected)
            replay.update_priorities(batch.indices, rng.uniform(0.5, 2, 2048))
            assert set(windows(replay.sample(2048))) == expected


@given(recordings(), st.integers(1, 50))
def test_a_loaded_replay_goes_on_bit_for_bit(recording, saved_after):
    """A replay read back from a file samples what the saved one would have, also after more of both."""
    recorder, steps = recording
    replay, model = recorder.replay, recorder.model
    for ends in steps[:saved_after]:
        recorder.step(*ends)
    if replay.windows:
        batch = replay.sample(8)
        replay.update_priorities(batch.indices, np.arange(8.0))
    loaded = make(len(model.lanes) * (model.rows_kept - 1), len(model.lanes), model.horizon)
    original = make(len(model.lanes) * (model.rows_kept - 1), len(model.lanes), model.horizon)
    for fresh in (loaded, original):
        fresh.step(*[RUNS] * len(model.lanes))  # what was there before must not matter
        state = {**load(save(replay.state())), "layout": fresh.replay.state()["layout"]}
        fresh.replay.load_state(state)
    assert (loaded.replay.windows, len(loaded.replay)) == (replay.windows, len(replay))
    for ends in [*steps[saved_after:], *steps]:
        for each in (loaded, original, recorder):
            each.now, each.count = list(recorder.now), recorder.count
