"""Laws of the replay, most of them against a model that keeps every episode as a plain list."""

import inspect
import re
import sys
import tracemalloc
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from tdmpc.config import ReplayConfig
from tdmpc.replay import ROWS, Replay
from tdmpc.spec import Batch

RUNS, TERMINATES, TRUNCATES, BOTH, DIVERGES = range(5)


class Window(NamedTuple):
    """One window in plain numbers."""

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
            np.array([end in (TRUNCATES, BOTH, DIVERGES) for end in ends]),
            observations(after),
            real=np.array([end != DIVERGES for end in ends]),
        )
        for lane, end in enumerate(ends):
            if end != DIVERGES:
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
    """The windows of a batch, each once, in the order of their ids."""
    assert torch.equal(batch.observations[..., 1], -batch.observations[..., 0])
    _, first = np.unique(batch.indices, return_index=True)
    fields = (batch.observations[..., 0], batch.actions[..., 0], batch.rewards, batch.terminated, batch.mask)
    columns = [field.T[first].tolist() for field in fields]
    return [Window(*map(tuple, window)) for window in zip(*columns, strict=True)]


def equal(one: Batch, other: Batch) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@st.composite
def recordings(draw: st.DrawFn) -> tuple[tuple[int, int, int], list[tuple[int, ...]]]:
    """Capacity, lanes and horizon of a small replay, and whether each lane's episode ends at each step."""
    horizon, lanes = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    capacity = lanes * horizon + draw(st.integers(0, 20))
    end = st.sampled_from([RUNS] * draw(st.integers(0, 8)) + [RUNS, TERMINATES, TRUNCATES, BOTH, DIVERGES])
    return (capacity, lanes, horizon), draw(st.lists(st.tuples(*[end] * lanes), min_size=1, max_size=50))


@given(recordings(), st.integers(0, 49))
@settings(max_examples=150)
def test_windows_are_those_of_the_model(recording, checked):
    """Every window sampled is one of a recorded episode, every such window is reached, and the counts agree."""
    shape, steps = recording
    recorder = make(*shape)
    replay, model = recorder.replay, recorder.model
    for step, ends in enumerate(steps):
        recorder.step(*ends)
        expected = model.windows()
        assert (replay.windows, len(replay)) == (len(expected), model.transitions())
        if expected and step in (checked, len(steps) - 1):
            batch = replay.sample(2048)
            assert set(windows(batch)) == expected
            replay.update_priorities(batch.indices, np.linspace(0.5, 2, 2048))
            assert set(windows(replay.sample(2048))) == expected


@given(recordings(), st.integers(1, 50))
def test_a_loaded_replay_goes_on_bit_for_bit(recording, saved_after):
    """A replay read back from a file samples what the saved one samples, from then on."""
    shape, steps = recording
    saved, loaded = make(*shape), make(*shape)
    for ends in steps[:saved_after]:
        saved.step(*ends)
        if saved.replay.windows:
            saved.replay.update_priorities(saved.replay.sample(4).indices, np.arange(4.0) + 5)
    for _ in range(30):
        loaded.step(*[TERMINATES] * shape[1])  # what was there before leaves nothing behind
    loaded.replay.load_state(load(save(saved.replay.state())))
    loaded.now, loaded.count = list(saved.now), saved.count
    for ends in [*steps[saved_after:], *steps]:
        assert (loaded.replay.windows, len(loaded.replay)) == (saved.replay.windows, len(saved.replay))
        if saved.replay.windows:
            batch = saved.replay.sample(4)
            assert equal(loaded.replay.sample(4), batch)
            for each in (saved, loaded):
                each.replay.update_priorities(batch.indices, np.arange(4.0))
        saved.step(*ends)
        loaded.step(*ends)


@given(recordings(), st.integers(0, 50))
def test_what_was_written_to_is_told(recording, saved_after):
    """Rows that are not told to have changed are as they were, and one step changes two rows of each lane."""
    shape, steps = recording
    recorder = make(*shape)
    replay = recorder.replay
    for ends in steps[:saved_after]:
        recorder.step(*ends)
    before = {name: replay.state()[name].copy() for name in ROWS}
    replay.changed[:] = False
    for number, ends in enumerate(steps[saved_after:], start=1):
        recorder.step(*ends)
        assert replay.changed.sum() <= 2 * number * shape[1]
    for name, rows in before.items():
        same = ~replay.changed[: len(rows)]
        assert np.array_equal(replay.state()[name][: len(rows)][same], rows[same])
        assert replay.changed[len(rows) : len(replay.state()[name])].all()


def test_a_batch_has_the_shapes_and_types_of_the_trainer():
    """A batch is time first, float32 whatever was added, and marks masked steps as behind a termination."""
    recorder = make(horizon=3)
    recorder.step(RUNS)
    recorder.step(TERMINATES)
    batch = recorder.replay.sample(4)
    assert [tuple(field.shape) for field in batch] == [(4, 4, 2), (3, 4, 1), (3, 4), (3, 4), (3, 4), (4,), (4,)]
    assert [field.dtype for field in batch[:-1]] == [torch.float32] * 3 + [torch.bool] + [torch.float32] * 2
    assert torch.equal(batch.mask[1:], (~batch.terminated[:-1]).float())


def test_a_batch_is_a_copy():
    """What is added after a batch was sampled does not change the batch."""
    recorder = make(capacity=3)
    for _ in range(3):
        recorder.step(RUNS)
    batch = recorder.replay.sample(2)
    before = windows(batch)
    for _ in range(6):
        recorder.step(RUNS)
    assert windows(batch) == before


def test_an_episode_that_ends_at_once_is_learnt_from():
    """A terminal episode shorter than the horizon is one window for each transition, masked behind the end."""
    recorder = make(horizon=3)
    recorder.step(TERMINATES)
    only = Window((1.0, 4.0, 4.0, 4.0), (0.5, 0.0, 0.0), (1.5, 0.0, 0.0), (True, True, True), (1.0, 0.0, 0.0))
    assert windows(recorder.replay.sample(2)) == [only]


def test_a_step_that_diverged_leaves_nothing():
    """A lane whose simulation diverged stores no transition, and its episode ends with the one before."""
    recorder = make(horizon=2, lanes=2)
    for ends in [(RUNS, RUNS), (RUNS, RUNS), (RUNS, DIVERGES), (RUNS, DIVERGES), (RUNS, RUNS)]:
        recorder.step(*ends)
    replay = recorder.replay
    assert (len(replay), replay.windows) == (5 + 3, 4 + 1)
    assert [len(replay.episode_actions(lane)) for lane in range(2)] == [5, 1]


def test_a_truncated_episode_shorter_than_the_horizon_is_never_sampled():
    """What lies behind a truncation is not known, so that no window may need it."""
    recorder = make(horizon=3)
    for end in (RUNS, TRUNCATES, TRUNCATES, RUNS, TRUNCATES):
        recorder.step(end)
    assert len(recorder.replay) == 5
    with pytest.raises(ValueError, match="no window to sample yet: 5 transitions"):
        recorder.replay.sample(1)


def test_overwritten_windows_are_not_revived():
    """New priorities for windows that the ring has overwritten do nothing."""
    recorder = make(capacity=8, horizon=3)
    for _ in range(5):
        recorder.step(RUNS)
    indices = recorder.replay.sample(64).indices
    for _ in range(8):
        recorder.step(TRUNCATES)
    recorder.replay.update_priorities(indices, np.ones(64))
    assert recorder.replay.windows == 0
    recorder.step(TERMINATES)
    assert set(windows(recorder.replay.sample(64))) == recorder.model.windows()


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_windows_are_drawn_in_proportion_to_their_priority(alpha):
    """A window is drawn with probability priority**alpha over the sum of all; alpha 0 is uniform."""
    recorder = make(capacity=40, horizon=3, alpha=alpha)
    for _ in range(40):
        recorder.step(RUNS)
    replay, draws = recorder.replay, 100_000
    priorities = np.arange(replay.windows) / 4 + 0.01
    replay.update_priorities(np.arange(replay.windows), priorities)
    expected = draws * priorities**alpha / np.sum(priorities**alpha)
    counts = np.bincount(replay.sample(draws).indices, minlength=replay.windows)
    assert counts.shape == expected.shape == (38,)
    chi_square = np.sum((counts - expected) ** 2 / expected)
    assert chi_square < 69.3  # one draw in a thousand exceeds it with 37 degrees of freedom


def test_importance_weights_are_those_computed_by_hand():
    """Three windows of priorities 1, 2 and 4 weigh (3 p)^-beta over the largest, p being 1/7, 2/7 and 4/7."""
    recorder = make(horizon=1, alpha=1.0, beta=0.5)
    for _ in range(3):
        recorder.step(RUNS)
    recorder.replay.update_priorities(np.arange(3), np.array([1.0, 2.0, 4.0]))
    batch = recorder.replay.sample(64)
    unscaled = (3 * np.array([1 / 7, 2 / 7, 4 / 7])) ** -0.5
    np.testing.assert_allclose(batch.weights, (unscaled / unscaled.max())[batch.indices], rtol=1e-5)
    assert set(batch.indices) == {0, 1, 2}


def test_a_new_window_has_the_largest_priority_seen_so_far():
    """The first windows have priority 1, later ones the largest raw priority ever given, be it gone by then."""
    recorder = make(horizon=1, alpha=1.0, beta=1.0)
    replay = recorder.replay
    recorder.step(RUNS)
    replay.update_priorities(np.array([0]), np.array([0.5]))
    recorder.step(RUNS)  # 1 beside 0.5
    np.testing.assert_allclose(sorted(set(replay.sample(64).weights.tolist())), [0.5, 1.0], rtol=1e-5)
    replay.update_priorities(np.array([0, 1]), np.array([8.0, 2.0]))
    replay.update_priorities(np.array([0]), np.array([2.0]))
    recorder.step(RUNS)  # 8 beside 2 and 2
    np.testing.assert_allclose(sorted(set(replay.sample(64).weights.tolist())), [0.25, 1.0], rtol=1e-5)


@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_rescaled_priorities_are_those_of_the_new_unit(factor):
    """After rescaling, windows old and new are drawn as if every error had been measured in the new unit."""
    replays = []
    for before, after in ((1.0, factor), (factor, 1.0)):
        recorder = make(capacity=3, horizon=1, alpha=0.6)
        for _ in range(2):
            recorder.step(RUNS)
        recorder.replay.update_priorities(np.arange(2), before * np.array([4.0, 8.0]))
        recorder.replay.rescale_priorities(after)
        recorder.step(RUNS)
        replays.append(recorder.replay.state()["leaves"])
    np.testing.assert_allclose(*replays, rtol=1e-5)


def test_a_priority_of_zero_is_not_the_end_of_a_window():
    """A window whose error was zero can still be drawn."""
    recorder = make(horizon=1)
    recorder.step(RUNS)
    recorder.replay.update_priorities(np.array([0, 0]), np.array([3.0, 0.0]))
    assert recorder.replay.windows == 1
    assert recorder.replay.sample(2).weights.tolist() == [1.0, 1.0]


def test_one_seed_governs_the_draw():
    """Replays of the same content draw alike from one seed, and differently from two."""
    batches = []
    for seed in (1, 1, 2):
        replay = Replay(ReplayConfig(100), observation_dim=2, action_dim=1, horizon=1, seed=seed)
        recorder = Recorder(replay, Model(100, 1, 1))
        for _ in range(50):
            recorder.step(RUNS)
        batches.append(replay.sample(32))
    assert equal(batches[0], batches[1])
    assert not equal(batches[0], batches[2])


def test_the_actions_of_the_running_episode_are_handed_back():
    """The running episode of each lane gives back its actions in order, also where the ring has wrapped."""
    recorder = make(capacity=14, lanes=2, horizon=2)
    for step in range(20):
        recorder.step(TRUNCATES if step % 5 == 4 else RUNS, TERMINATES if step == 16 else RUNS)
        for lane, ends in enumerate(([4, 9, 14, 19], [16])):
            begun = max((end + 1 for end in ends if end <= step), default=0)
            if step + 1 - begun > 7:
                with pytest.raises(ValueError, match=rf"episode of lane {lane} has .* raise its capacity"):
                    recorder.replay.episode_actions(lane)
                continue
            rows = [row.action for row in recorder.model.lanes[lane] if row.action is not None]
            assert recorder.replay.episode_actions(lane)[:, 0].tolist() == rows[begun:]


def test_a_million_transitions_are_reserved_within_250_mb():
    """A million transitions of 24 sensors and 6 actions take less than 250 MB, priorities included."""
    tracemalloc.start()
    try:
        replay = Replay(ReplayConfig(1_000_000), observation_dim=24, action_dim=6, horizon=5)
        reserved, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(replay) == 0
    assert 1_000_000 * 31 * 4 < reserved < 160e6


def fill(replay: Replay, steps: int) -> None:
    for _ in range(steps):
        flag = np.zeros(1, dtype=bool)
        replay.add(np.ones((1, 24)), np.ones((1, 6)), np.ones(1), flag, flag, np.ones((1, 24)))


def test_the_state_of_a_replay_is_as_large_as_what_it_holds():
    """Saving ten transitions of a million writes some kilobytes."""
    replay = Replay(ReplayConfig(1_000_000), observation_dim=24, action_dim=6, horizon=5)
    fill(replay, 10)
    assert sum(array.nbytes for array in replay.state().values()) < 4096


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_almost_empty_replay_costs_almost_no_memory():
    """Reserving a million transitions and storing ten makes less than half of their memory resident."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident()
    replay = Replay(ReplayConfig(1_000_000), observation_dim=24, action_dim=6, horizon=5)
    fill(replay, 10)
    replay.sample(512)
    assert resident() - before < 64e6


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"capacity": 21}, "capacity was 20 and is 21"),
        ({"lanes": 2}, "lanes was 1 and is 2"),
        ({"horizon": 4}, "horizon was 3 and is 4"),
        ({"observation_dim": 3}, "observation_dim was 2 and is 3"),
        ({"action_dim": 2, "horizon": 1}, "horizon was 3 and is 1, action_dim was 1 and is 2"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(changed, message):
    """A state of another layout is refused with what differs, and the replay stays as it was."""
    settings = {"capacity": 20, "observation_dim": 2, "action_dim": 1, "horizon": 3, "lanes": 1} | changed
    replay = Replay(ReplayConfig(settings.pop("capacity")), **settings)
    recorder = make(capacity=20, horizon=3)
    for _ in range(5):
        recorder.step(RUNS)
    with pytest.raises(ValueError, match=message):
        replay.load_state(recorder.replay.state())
    assert len(replay) == 0


def test_a_capacity_below_one_window_a_lane_is_refused():
    """The error says how much would do, and that much does."""
    with pytest.raises(ValueError, match=r"at least 6 .* got 5"):
        make(capacity=5, lanes=2, horizon=3)
    recorder = make(capacity=6, lanes=2, horizon=3)
    for _ in range(9):
        recorder.step(RUNS, RUNS)
    assert recorder.replay.windows == 2


@pytest.mark.parametrize("name", ["observations", "actions", "rewards", "terminated", "truncated", "next_observations"])
def test_a_step_of_another_size_is_refused(name):
    """Lanes or numbers that the replay was not made for are an error that names the argument, and nothing is stored."""
    replay, flags = make(lanes=2).replay, np.zeros(2, dtype=bool)
    step = {"observations": np.zeros((2, 2)), "actions": np.zeros((2, 1)), "rewards": np.zeros(2)}
    step |= {"terminated": flags, "truncated": flags, "next_observations": np.zeros((2, 2))}
    for wrong in (step[name][:1], np.repeat(step[name], 2, axis=0), step[name][..., None]):
        shapes = f"must have shape {step[name].shape}, got {wrong.shape}"
        with pytest.raises(ValueError, match=rf"^{name} {re.escape(shapes)}$"):
            inspect.unwrap(Replay.add)(replay, **step | {name: wrong})  # not the one that tests check the shapes of
    assert len(replay) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_a_priority_that_is_no_priority_is_refused(bad):
    """Negative and non-finite priorities are refused before any of them is stored."""
    recorder = make(horizon=1)
    recorder.step(RUNS)
    before = recorder.replay.state()["leaves"].copy()
    with pytest.raises(ValueError, match="priorities must be finite and at least 0"):
        recorder.replay.update_priorities(np.array([0, 0]), np.array([1.0, bad]))
    assert np.array_equal(recorder.replay.state()["leaves"], before)
