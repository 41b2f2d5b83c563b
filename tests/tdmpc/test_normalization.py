"""Laws of the running statistics: they are those of all data at once, however it came."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tdmpc.normalization import ROUNDING, ObservationMoments, RewardMagnitudes

SENSED = st.floats(-1e3, 1e3, width=32)
BATCHES = st.lists(
    st.integers(1, 5).flatmap(lambda rows: arrays(np.float32, (rows, 3), elements=SENSED)), min_size=1, max_size=6
)


def moments_of(*batches: np.ndarray) -> ObservationMoments:
    moments = ObservationMoments(batches[0].shape[1])
    for batch in batches:
        moments.add(torch.from_numpy(batch))
    return moments


@settings(max_examples=50)
@given(BATCHES)
def test_moments_are_those_of_all_data_at_once(batches: list[np.ndarray]) -> None:
    """In batches of any sizes, mean and deviation are numpy's over everything; a constant sensor's deviation is 1."""
    moments, everything = moments_of(*batches), np.concatenate(batches).astype(np.float64)
    spread = everything.std(0)
    assert moments.count == len(everything)
    np.testing.assert_allclose(moments.mean, everything.mean(0), atol=1e-9)
    moved = spread > ROUNDING * (1 + np.abs(everything.mean(0)))
    np.testing.assert_allclose(moments.std[moved], spread[moved], atol=1e-6)
    assert (moments.std[~moved] == 1).all()


def test_far_sensors_keep_their_spread() -> None:
    """A small movement around a large offset is not lost in round-off, even over many steps."""
    data = (1e5 + np.random.default_rng(0).normal(size=(4000, 1))).astype(np.float32)
    one_by_one = moments_of(*np.split(data, 400))
    np.testing.assert_allclose(one_by_one.std, data.astype(np.float64).std(0), rtol=1e-9)


@settings(max_examples=30)
@given(value=SENSED, rows=st.integers(1, 7), times=st.integers(1, 50))
def test_constant_sensors_do_not_blow_up(value: float, rows: int, times: int) -> None:
    """A sensor that has not moved has deviation 1, however often and in whatever batches it was read."""
    moments = moments_of(*[np.full((rows, 1), value, np.float32)] * times)
    assert moments.std.tolist() == [1.0]


@pytest.mark.parametrize("reading", [9.81, -3e4, 1e-17])
def test_rounding_is_no_signal(reading: float) -> None:
    """A constant sensor stays one where its last digit flickers, as it does when it was computed."""
    noise = np.random.default_rng(0).normal(size=(1000, 1))
    assert moments_of((reading * (1 + 1e-7 * noise)).astype(np.float32)).std.tolist() == [1.0]
    assert moments_of((1e-17 * noise).astype(np.float32)).std.tolist() == [1.0]


def test_small_signals_are_signals() -> None:
    """A sensor that moves by a hundredth of a millimetre around a metre is standardised like any other."""
    data = (1 + 1e-5 * np.random.default_rng(0).normal(size=(1000, 1))).astype(np.float32)
    np.testing.assert_allclose(moments_of(data).std, data.astype(np.float64).std(0), rtol=1e-9)


def test_nothing_seen() -> None:
    """Before the first observation the mean is 0 and the deviation 1."""
    moments = ObservationMoments(2)
    assert moments.mean.tolist() == [0.0, 0.0] and moments.std.tolist() == [1.0, 1.0]


def test_going_on_from_a_state() -> None:
    """Moments that go on from a saved state are bit for bit those that never stopped."""
    first, second = (np.random.default_rng(seed).normal(size=(5, 3)).astype(np.float32) for seed in (0, 1))
    straight, resumed = moments_of(first), ObservationMoments(3)
    resumed.load_state({name: tensor.clone() for name, tensor in straight.state().items()})
    for moments in (straight, resumed):
        moments.add(torch.from_numpy(second))
    assert all(torch.equal(resumed.state()[name], tensor) for name, tensor in straight.state().items())


def test_moments_share_nothing() -> None:
    """Moments loaded from others leave those as they were when they go on."""
    data = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    kept, going_on = moments_of(data), ObservationMoments(3)
    before = {name: tensor.clone() for name, tensor in kept.state().items()}
    going_on.load_state(kept.state())
    going_on.add(torch.from_numpy(data + 1))
    assert all(torch.equal(kept.state()[name], tensor) for name, tensor in before.items())


def scale_of(*rewards: float) -> float:
    """One by one, as a training sees them."""
    magnitudes = RewardMagnitudes()
    for reward in rewards:
        magnitudes.add(torch.tensor([reward]))
    return magnitudes.scale


@given(st.floats(2.0**-100, 2.0**100, width=32))
def test_the_scale_is_a_power_of_two(value: float) -> None:
    """The scale of one reward is the least power of two that is not below it, exactly."""
    found = Fraction(scale_of(-value))
    assert math.frexp(found)[0] == 0.5
    assert found / 2 < Fraction(value) <= found


@pytest.mark.parametrize(("value", "power"), [(3.0, 4.0), (0.2, 0.25), (8.0, 8.0), (1.0, 1.0), (0.5, 0.5)])
def test_examples_of_a_scale(value: float, power: float) -> None:
    """A power of two is its own scale, anything else gets the next one: 3 gives 4, 8 gives 8."""
    assert scale_of(value) == power
