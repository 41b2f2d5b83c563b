"""Laws of the settings: what is filled in, and that every mistake is named before training starts."""

from collections.abc import Callable
from typing import Any

import pytest

from tdmpc.compression.config import PruneConfig, PruneError, check, resolved
from tdmpc.compression.groups import Groups
from tdmpc.compression.tdmpc_agent.groups import agent_groups
from tests.tdmpc.conftest import MODEL, PLANNER

SPAN = {"first_update": 100, "length": 1100}


@pytest.fixture
def groups(make_spec: Callable) -> Groups:
    return agent_groups(MODEL, make_spec(), PLANNER)


def settings(**changes: Any) -> PruneConfig:
    return resolved(PruneConfig(**{"target": 0.5, "min_width": 2, **changes}), **SPAN)


def test_what_is_not_given_follows_from_the_run() -> None:
    """Pruning lasts from 10 to 40 % of the learning part; a fiftieth of the run lies between two snapshots."""
    config = settings()
    assert (config.start, config.end, config.snapshot_every) == (200, 500, 22)
    assert settings(start=300, end=400, snapshot_every=7) == PruneConfig(
        0.5, min_width=2, start=300, end=400, snapshot_every=7
    )


def test_components_can_be_listed_with_commas() -> None:
    """--prune.keep takes names with commas or blanks between them."""
    assert settings(keep=("encoder,policy", "latent")).keep == ("encoder", "policy", "latent")


def test_floors_are_the_narrowest_that_all_settings_allow(groups: Groups) -> None:
    """What is kept keeps its width; a share leaves the rest; nothing is narrower than the minimum."""
    limits = settings(keep=("encoder",), shares=(("policy", 0.5),)).limits(groups)
    assert {name: limits.floors[name] for name in ("encoder.0", "policy.0", "policy.1", "reward.0")} == {
        "encoder.0": 8,
        "policy.0": 5,
        "policy.1": 4,
        "reward.0": 2,
    }


MISTAKES = {
    "--prune.target must be at least 0 and below 1, got 1.0": {"target": 1.0},
    "--prune.target must be at least 0 and below 1, got -0.1": {"target": -0.1},
    "--prune.end must be at most 1100, the end of training, got 1200": {"end": 1200},
    "--prune.start must be at least 100, when learning begins, and below --prune.end, got 50 and 500": {"start": 50},
    "and below --prune.end, got 700 and 500": {"start": 700},
    "--prune.min-width must be at most the width of every layer that is pruned, got 7 where latent has 6": {
        "min_width": 7
    },
    "--prune.keep: there is no component critic; there are latent, encoder, dynamics": {"keep": ("critic",)},
    "--prune.shares: there is no component head": {"shares": (("head", 0.5),)},
    "--prune.shares must be from 0 to 1, got [1.5]": {"shares": (("policy", 1.5),)},
    "nothing is left to prune": {
        "keep": ("latent", "encoder", "dynamics", "reward", "policy", "value"),
    },
    "--prune.target 0.99 cannot be reached: 0.": {"target": 0.99},
    "--prune.events must be positive, got 0": {"events": 0},
    "--prune.round-to must be positive, got 0": {"round_to": 0},
    "--prune.smoothing must be at least 0 and below 1, got 1.0": {"smoothing": 1.0},
    "--prune.forgetting must be at least 0 and below 1, got 1.0": {"forgetting": 1.0},
    "--prune.tolerance must be 0 or more, got -1.0": {"tolerance": -1.0},
    "--prune.observe-every must be positive, got 0": {"observe_every": 0},
    "--prune.bound is of the Bayesian score: --prune.criterion must be": {"criterion": "l2", "bound": "lower"},
    "--prune.history is of the Bayesian score": {"criterion": "fisher", "history": "cosine"},
}


@pytest.mark.parametrize("expected", MISTAKES)
def test_every_mistake_is_named(groups: Groups, expected: str) -> None:
    """Settings that cannot work are refused by their name on the command line, with what is expected."""
    with pytest.raises(PruneError) as caught:
        check(settings(**MISTAKES[expected]), groups, groups, **SPAN)
    assert expected in str(caught.value)


def test_several_mistakes_are_named_at_once(groups: Groups) -> None:
    """All mistakes are told, not the first alone."""
    with pytest.raises(PruneError, match=r"target.*events.*critic"):
        check(settings(target=2.0, events=0, keep=("critic",)), groups, groups, **SPAN)


def test_a_target_that_is_reached_already_is_refused(groups: Groups) -> None:
    """A run that has lost more than the target is told so."""
    current = groups.resized(dict.fromkeys(groups.widths, 3))
    with pytest.raises(PruneError, match=r"must be above the 0.[0-9]+ of its macs that the model has lost already"):
        check(settings(), groups, current, **SPAN)


def test_what_can_work_is_not_refused(groups: Groups) -> None:
    """Settings within all limits pass."""
    check(settings(), groups, groups, **SPAN)
    check(settings(target=0.0, observe=True, min_width=999, criterion="l2", bound="lower"), groups, groups, **SPAN)
    check(settings(keep=("encoder",), min_width=3, round_to=2), groups, groups, **SPAN)
