"""Laws of the schedules: where they start and end, that steps do not compound, and how large cuts are."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdmpc.compression.schedule import RAMPS, Schedule

SHAPES = sorted(RAMPS)


def schedule(shape: str = "cosine", target: float = 0.97, *, relative: bool = True, events: int = 12) -> Schedule:
    return Schedule(shape, target, 100, 340, events, relative)


@given(st.sampled_from(SHAPES), st.floats(0.01, 0.99), st.booleans(), st.integers(1, 30))
def test_a_schedule_rises_from_nothing_to_its_target(shape: str, target: float, relative: bool, events: int) -> None:
    """Nothing is removed at the start, the target at the last event and after it, and never less than before."""
    plan = schedule(shape, target, relative=relative, events=events)
    removed = [plan.removed(event) for event in range(events + 3)]
    assert removed[0] == 0
    assert removed[events:] == pytest.approx([target] * 3)
    assert all(before <= after + 1e-12 for before, after in pairwise(removed))


@pytest.mark.parametrize(("shape", "halfway"), [("cosine", 0.5), ("linear", 0.5), ("cubic", 0.875), ("one-shot", 0.0)])
def test_ramps_are_those_of_their_formulas(shape: str, halfway: float) -> None:
    """Half way, cosine and linear ramps have made half of their way, the cubic seven eighths, one-shot none."""
    assert schedule(shape, relative=False).removed(6) == pytest.approx(0.97 * halfway)
    assert 1 - schedule(shape).removed(6) == pytest.approx(0.03**halfway)


def test_cosine_is_the_published_ramp() -> None:
    """The share is s_f (1 - cos(pi t)) / 2: a quarter of the way, 0.1464 of the target."""
    assert schedule(relative=False).removed(3) == pytest.approx(0.97 * 0.146447, rel=1e-5)


def test_events_come_in_equal_distances() -> None:
    """Twelve events between 100 and 340 come each 20 steps, the last at 340; they go on to make up for undone ones."""
    plan = schedule()
    assert [plan.events_by(step) for step in (0, 100, 119, 120, 139, 140, 339, 340, 360, 1000)] == [
        *(0, 0, 0, 1, 1, 2, 11, 12, 13, 45),
    ]


def largest(plan: Schedule) -> float:
    left = [1 - plan.removed(event) for event in range(plan.events + 1)]
    return max(1 - after / before for before, after in pairwise(left))


def test_relative_ramps_make_no_cut_too_large() -> None:
    """The largest part of what it finds that an event takes is 37 % with a relative ramp, 51 % with the published."""
    assert largest(schedule()) == pytest.approx(0.365, abs=1e-3)
    assert largest(schedule(relative=False)) == pytest.approx(0.510, abs=1e-3)


@given(st.sampled_from(SHAPES), st.floats(0.01, 0.99), st.booleans(), st.integers(1, 12), st.floats(0.01, 1.0))
def test_no_event_makes_up_for_all(shape: str, target: float, relative: bool, events: int, left: float) -> None:
    """Wherever undone events have left it, an event takes at most the largest part that the schedule ever takes."""
    plan = schedule(shape, target, relative=relative, events=events)
    assert 1 - (1 - plan.most(left)) / left == pytest.approx(largest(plan))
