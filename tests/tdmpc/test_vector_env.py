"""Laws of several environments: lanes, seeds, and going back to mid-episode."""

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdmpc.envs import make_env
from tdmpc.vector_env import Environments, episode_seed
from tests.tdmpc.conftest import TOY, registered
from tests.tdmpc.env_toys import Toy


def random_actions(env_id: str, count: int, lanes: int, seed: int = 0) -> np.ndarray:
    with closing(make_env(env_id)) as env:
        size = env.action_space.shape or ()
    return np.random.default_rng(seed).uniform(-1, 1, (count, lanes, *size)).astype(np.float32)


def same(left: Any, right: Any) -> bool:
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(left, right, strict=True))


def test_a_fall_terminates() -> None:
    """A pole that falls is a termination and not a truncation."""
    with closing(Environments("InvertedPendulum-v5")) as lanes:
        lanes.reset()
        ends = [lanes.step(np.ones((1, 1), np.float32))]
        while not ends[-1].terminated.any():
            ends.append(lanes.step(np.ones((1, 1), np.float32)))
    assert len(ends) < 50
    assert not any(end.truncated.any() for end in ends)


@pytest.mark.parametrize("name", ["InvertedPendulum-v5", "Hopper-v5", "Pendulum-v1"])
def test_lanes_are_independent_environments(name: str) -> None:
    """Lanes that end at different times give what single ones give, bit for bit: no step crosses an end of episode."""
    actions = random_actions(name, 210, lanes=3)
    with closing(Environments(name, num_envs=3, seed=4)) as lanes:
        before, seen = lanes.reset(), []
        for action in actions:
            after = lanes.step(action)
            seen.append((before, *after[:4]))
            before = lanes.start(after.terminated | after.truncated)
        assert (lanes.episodes > 0).all()
    for lane in range(3):
        with closing(make_env(name)) as env:
            expected = single_lane(env, actions[:, lane], 4, lane)
            assert all(
                same([part[lane] for part in parts], single) for parts, single in zip(seen, expected, strict=True)
            )


def single_lane(env: gym.Env, actions: np.ndarray, seed: int, lane: int) -> Iterator[tuple[Any, ...]]:
    """The transitions of one environment, episode after episode, written without any vector environment."""
    episode, ended, before = -1, True, np.zeros(0)
    for action in actions:
        if ended:
            episode += 1
            before, _ = env.reset(seed=episode_seed(seed, lane, episode))
        after, reward, terminated, truncated, _ = env.step(action)
        yield before, after, np.float32(reward), np.bool_(terminated), np.bool_(truncated)
        before, ended = after, terminated or truncated


def test_an_ended_lane_must_begin_before_it_goes_on(register: Callable[..., str]) -> None:
    """A step with a lane that ended, or never began, is refused, and so are actions of the wrong shape."""
    register(lambda **options: Toy(lasts=1))
    with closing(Environments(TOY, num_envs=2)) as lanes:
        with pytest.raises(RuntimeError, match=r"lanes \[0, 1\]: call start"):
            lanes.step(np.zeros((2, 1), np.float32))
        lanes.reset()
        with pytest.raises(ValueError, match=r"shape \(2, 1\), got \(3, 1\)"):
            lanes.step(np.zeros((3, 1), np.float32))
        lanes.step(np.zeros((2, 1), np.float32))
        lanes.start(np.array([True, False]))
        with pytest.raises(RuntimeError, match=r"lanes \[1\]: call start"):
            lanes.step(np.zeros((2, 1), np.float32))


def test_a_lane_begins_alone(register: Callable[..., str]) -> None:
    """Beginning an episode in one lane leaves the others where they are; lanes that never began do begin."""
    register(lambda **options: Toy(lasts=9))
    with closing(Environments(TOY, num_envs=2)) as lanes:
        first = lanes.start(np.array([False, True]))
        assert lanes.episodes.tolist() == [0, 0]
        assert np.array_equal(lanes.start(np.array([False, False])), first)
        second = lanes.start(np.array([False, True]))
        assert lanes.episodes.tolist() == [0, 1]
        assert np.array_equal(first[0], second[0])
        assert not np.array_equal(first[1], second[1])
        assert np.array_equal(lanes.reset(), first)


def test_infos_of_any_shape_do_no_harm(register: Callable[..., str]) -> None:
    """Lanes whose infos cannot be stacked step together all the same."""

    class Talkative(Toy):
        def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            return *super().step(action)[:-1], {"contacts": np.zeros(int(self.np_random.integers(99)))}

    register(lambda **options: Talkative(lasts=9))
    with closing(Environments(TOY, num_envs=3)) as lanes:
        lanes.reset()
        assert lanes.step(np.zeros((3, 1), np.float32)).rewards.tolist() == [1, 1, 1]


def test_only_the_lane_that_diverges_is_cut(register: Callable[..., str]) -> None:
    """Lanes before and after one that diverges make their step; that one stays where it was and ends, truncated."""

    class Fragile(Toy):
        def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            if action[0] > 0.9:
                raise RuntimeError("the arm flew away")
            return super().step(action)

    register(lambda **options: Fragile(lasts=9))
    with closing(Environments(TOY, num_envs=3)) as lanes:
        lanes.reset()
        before = lanes.step(np.zeros((3, 1), np.float32))
        after = lanes.step(np.array([[0], [1], [0]], np.float32))
        assert after.observations[:, 0].tolist() == [2, 1, 2] and after.rewards.tolist() == [2, 0, 2]
        assert np.array_equal(after.observations[1], before.observations[1])
        assert after.truncated.tolist() == after.ended.tolist() == [False, True, False]
        assert after.real.tolist() == [True, False, True] and not after.terminated.any()
        assert after.diverged[::2] == ("", "") and "RuntimeError: the arm flew away" in after.diverged[1]
        lanes.start(after.ended)
        assert lanes.episodes.tolist() == [0, 1, 0]
        assert lanes.step(np.zeros((3, 1), np.float32)).rewards.tolist() == [3, 1, 3]


def test_what_was_handed_out_does_not_change(register: Callable[..., str]) -> None:
    """A transition keeps its observations, and a description of episodes its numbers, when the lanes go on."""
    register(lambda **options: Toy(lasts=2))
    with closing(Environments(TOY, num_envs=2)) as lanes:
        lanes.reset()
        episodes, transition = lanes.episodes, lanes.step(np.ones((2, 1), np.float32))
        copies = [part.copy() for part in transition[:4]]
        lanes.step(np.zeros((2, 1), np.float32))
        lanes.start(np.ones(2, np.bool_))
        assert same(transition[:4], copies)
        assert episodes.tolist() == [0, 0]
        assert lanes.episodes.tolist() == [1, 1]


# --------------------------------------------------------------------------------------------------------------- seeds


@pytest.mark.parametrize("name", ["reacher-easy", "Hopper-v5"])
def test_the_seed_decides_and_nothing_else_does(name: str) -> None:
    """Lanes with one seed are identical whatever the global generators do; lanes with another seed differ."""

    def play(seed: int) -> list[np.ndarray]:
        with closing(Environments(name, num_envs=2, seed=seed)) as lanes:
            observations = [lanes.reset()]
            for action in actions:
                np.random.random()  # noqa: NPY002 - a neighbour that draws from the global generator
                observations.append(lanes.step(action).observations)
        return observations

    actions = random_actions(name, 5, lanes=2)
    first = play(seed=1)
    np.random.seed(99)  # noqa: NPY002
    assert same(first, play(seed=1))
    assert not same(first, play(seed=2))
    assert not np.array_equal(first[0][0], first[0][1])


def test_every_episode_has_a_seed_of_its_own() -> None:
    """Seeds differ by run, lane and episode, are 31 bits long, and never change between versions of this code."""
    seeds = {episode_seed(run, lane, episode) for run in range(5) for lane in range(5) for episode in range(40)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert episode_seed(0, 0, 0) == 1941048836


# ------------------------------------------------------------------------------------------------------------- restore


def play(
    make: Callable[[], Environments], actions: np.ndarray, *, abandon_at: int, interrupt_at: int | None = None
) -> list[tuple[np.ndarray, ...]]:
    """All that the lanes give. Lane 0 gives up one episode; an interruption goes on in other lanes, restored."""
    lanes, seen = make(), []
    lanes.reset()
    past, begins = [actions[:0, lane] for lane in range(lanes.num_envs)], np.zeros(lanes.num_envs, np.bool_)
    for number, action in enumerate(actions):
        if number == interrupt_at:
            episodes = lanes.episodes
            lanes.close()
            lanes = make()
            lanes.reset()
            lanes.step(action)  # they did something else before
            lanes.restore(episodes, past)
        begins[0] |= number == abandon_at
        observations = lanes.start(begins)
        past = [np.vstack([old[: 0 if new else None], one]) for old, new, one in zip(past, begins, action, strict=True)]
        transition = lanes.step(action)
        seen.append((observations, lanes.episodes, *transition[:4]))
        begins = transition.terminated | transition.truncated
    lanes.close()
    return seen


@pytest.mark.parametrize("name", ["cartpole-swingup", "reacher-easy", "walker-walk", "Hopper-v5", "Pendulum-v1"])
def test_a_restored_episode_goes_on_bit_for_bit(name: str) -> None:
    """From the numbers of the episodes and the actions so far, other lanes go on exactly like the first ones."""
    actions = random_actions(name, 24, lanes=2)
    make = partial(Environments, name, num_envs=2, seed=3)
    whole, interrupted = (play(make, actions, abandon_at=3, interrupt_at=at) for at in (None, 14))
    assert all(same(*steps) for steps in zip(whole, interrupted, strict=True))


@settings(max_examples=40)
@given(moment=st.integers(0, 20), abandon_at=st.integers(0, 20), num_envs=st.integers(1, 3), repeat=st.integers(1, 3))
def test_any_moment_can_be_restored(moment: int, abandon_at: int, num_envs: int, repeat: int) -> None:
    """Whenever the interruption comes, also at the start or the end of an episode, the future is the same."""
    actions = np.random.default_rng(moment).uniform(-1, 1, (25, num_envs, 1)).astype(np.float32)
    make = partial(Environments, TOY, num_envs=num_envs, seed=moment, action_repeat=repeat)
    with registered(Toy):
        whole, interrupted = (play(make, actions, abandon_at=abandon_at, interrupt_at=at) for at in (None, moment))
    assert all(same(*steps) for steps in zip(whole, interrupted, strict=True))


def test_an_impossible_past_is_refused(register: Callable[..., str]) -> None:
    """A past that goes on after the end of its episode, or that lacks a lane, is refused."""
    register(lambda **options: Toy(lasts=2))
    with closing(Environments(TOY, num_envs=2)) as lanes:
        long, short = np.zeros((3, 1), np.float32), np.zeros((1, 1), np.float32)
        with pytest.raises(ValueError, match="lane 1: the episode ended after 2 of 3 recorded actions"):
            lanes.restore(np.zeros(2, np.int64), [short, long])
        with pytest.raises(ValueError, match="expected 2 lanes, got 2 episodes, 1 actions"):
            lanes.restore(np.zeros(2, np.int64), [short])
