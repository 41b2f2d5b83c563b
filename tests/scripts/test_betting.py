"""Laws of the tests by betting: how often they err, by simulation of 10,000 ladders, and what they cost."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tdmpc.scripts import betting
from tdmpc.scripts.betting import fewest, judged, loss_bound, pairs_needed, rejected, wealth

LADDERS, RUNGS, PAIRS = 10_000, 3, 150
LOSS, CONFIDENCE = 0.05, 0.95
SHARE = 0.9
"""What the reference returns."""
Returns = np.ndarray
Test = Callable[[np.ndarray], np.ndarray]
"""From the gains of pairs, ``Float[*M T]``, to whether a rung is certified, ``Bool[*M]``."""


def falls(random: np.random.Generator, loss: float) -> Returns:
    """All or nothing: where a mean seems safe until the first fall."""
    return SHARE * (random.random((LADDERS, PAIRS), dtype=np.float32) >= loss)


def scattered(random: np.random.Generator, loss: float) -> Returns:
    """Two values far from each other, in the right proportion."""
    mean = SHARE * (1 - loss)
    return np.where(random.random((LADDERS, PAIRS), dtype=np.float32) < 0.5, 0.7 * mean, 1.3 * mean).clip(0, 1)


def by_betting(gains: np.ndarray) -> np.ndarray:
    return rejected(wealth(gains, LOSS - 1), CONFIDENCE) > 0


def by_t_test(gains: np.ndarray) -> np.ndarray:
    """What one would do without thinking: a t-test after each pair from the tenth, until it is significant."""
    count = np.arange(1, PAIRS + 1)
    mean = np.cumsum(gains, -1) / count
    deviation = np.sqrt(np.maximum(np.cumsum(gains**2, -1) / count - mean**2, 1e-12))
    return (np.sqrt(count) * mean / deviation > 1.645)[..., 9:].any(-1)


def by_foresight(gains: np.ndarray) -> np.ndarray:
    """Bets that know the value that they are made on: no betting at all."""
    bets = np.where(gains > 0, 1, 0) / (1 - LOSS)
    return rejected(np.exp(np.cumsum(np.log1p(bets * gains), -1)), CONFIDENCE) > 0


def false_certificates(test: Test, draw: Callable[..., Returns], first: int) -> float:
    """Share of ladders whose limit loses ``LOSS`` or more; rungs from ``first`` on do, each on the same reference."""
    random = np.random.default_rng(0)
    certified = np.ones(LADDERS, bool)
    wrong = np.zeros(LADDERS, bool)
    for rung in range(RUNGS):
        loss = 0.0 if rung < first else LOSS + 0.02 * (rung - first)
        certified &= test(draw(random, loss) - np.float32((1 - LOSS) * SHARE))
        wrong |= certified & (rung >= first)
    return float(wrong.mean())


@pytest.mark.parametrize(("draw", "least"), [(falls, 0.005), (scattered, 0.0)])
def test_false_certificates_are_as_rare_as_promised(draw: Callable[..., Returns], least: float) -> None:
    """Of 10,000 ladders with rungs that lose just too much, no more than promised are certified wrongly."""
    assert least <= false_certificates(by_betting, draw, first=1) <= 1 - CONFIDENCE


@pytest.mark.parametrize("broken", [by_t_test, by_foresight])
def test_the_simulation_catches_a_broken_bound(broken: Test) -> None:
    """A t-test that is looked at after each pair, and bets made with foresight, certify wrongly far too often."""
    assert false_certificates(broken, falls, 0) > 2 * (1 - CONFIDENCE)


def test_a_bound_on_the_loss_holds_whenever_one_looks() -> None:
    """The least of the bounds after each pair lies above the real loss, in as many sequences as promised."""
    random, below = np.random.default_rng(1), 0
    for _ in range(100):
        candidate = SHARE * (random.random(40) >= 0.1)
        below += loss_bound(np.full(40, SHARE), candidate, confidence=0.8) < 0.1  # the least of all bounds until then
    assert 0 < below / 100 <= 0.2


def test_verdicts() -> None:
    """As good is certified, much worse fails, and nothing is known of a loss at the limit, or of few pairs."""
    reference = np.full(150, SHARE)
    known = {"loss": LOSS, "confidence": CONFIDENCE}
    assert judged(reference, reference, **known) == "certified"
    assert judged(reference, 0.5 * reference, **known) == "fails"
    assert judged(reference, 0.95 * reference, **known) == "undecided"
    assert judged(reference[:20], reference[:20], **known) == "undecided"


def test_the_fewest_pairs_are_a_bound() -> None:
    """No candidate is certified sooner than the number of pairs that is said to be needed at least."""
    least = fewest(SHARE, loss=LOSS, confidence=CONFIDENCE)
    same = np.full(2 * least, SHARE)
    found = int(rejected(wealth(same - (1 - LOSS) * same, LOSS - 1), CONFIDENCE))
    assert least <= found < 1.3 * least


def test_the_page_has_the_table_of_the_command() -> None:
    """The numbers of pairs in docs/certify.md are those that ``tdmpc certify --needed`` prints."""
    page = (Path(__file__).parents[2] / "docs" / "certify.md").read_text()
    for cells in pairs_needed(loss=LOSS, confidence=CONFIDENCE, most=500):
        assert any([cell.strip() for cell in line.strip("|").split("|")] == list(cells) for line in page.splitlines())


def test_a_lost_bet_leaves_something() -> None:
    """However bad a value is, some wealth is left: one fall does not end a test for ever."""
    gains = np.array([*[0.05] * 100, LOSS - 1.0])
    assert wealth(gains, LOSS - 1)[-1] >= (1 - betting.BOLDNESS) * wealth(gains, LOSS - 1)[-2] * (1 - 1e-9)
