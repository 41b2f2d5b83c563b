"""Tests of a mean by betting, which one may look at after each value (Waudby-Smith and Ramdas, arXiv 2010.09686).

Returns are shares of the way from the lowest to the highest that a task can pay. Of a pair, ``r`` is the reference's
and ``c`` the candidate's. The *mean loss* is 1 - E[c] / E[r]. It is below ``d`` where the mean *gain* E[c - (1 - d) r]
is above zero, and a gain is bounded: it lies in [d - 1, 1]. So nothing has to be clipped, and no ratio taken.

The authors' package ``confseq`` holds the same bets. It is published as C++ source only, and this is one formula.
"""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

Verdict = Literal["certified", "fails", "undecided"]

BOLDNESS = 0.9
"""Share of its wealth that a bet may lose at worst."""
PRIOR = 0.25
"""Second moment that a first value is expected to have, as published for values in [0, 1]."""
LOSSES = np.linspace(-1, 1, 2001)
"""Mean losses that are tested for a bound."""
KINDS: dict[str, Any] = {
    "alike": {"share": 0.85, "spread": 0.02},
    "scattered": {"share": 0.85, "spread": 0.1},
    "falls": {"share": 0.85, "spread": 0.02, "falls": True},
    "low return": {"share": 0.4, "spread": 0.02},
}
"""Of episodes in ``pairs_needed``: arguments of ``drawn``."""


def wealth(gains: Float[np.ndarray, "*M T"], worst: float) -> Float[np.ndarray, "*M T"]:
    """What a gambler has after each value who bets that their mean is above zero, beginning with 1.

    Where it is zero or below, the wealth ever reaches 1 / alpha with probability alpha at most (Ville's inequality).
    The bet before a value depends on earlier values alone: their mean over their second moment, the paper's aGRAPA.

    Args:
        gains: none below ``worst``.
        worst: below zero.
    """
    first, second = (np.cumsum(gains**power, axis=-1) - gains**power for power in (1, 2))  # of the values before
    bets = np.clip(first / (PRIOR + second), 0, -BOLDNESS / worst)
    return np.exp(np.cumsum(np.log1p(bets * gains), axis=-1))


def rejected(wealths: Float[np.ndarray, "*M T"], confidence: float) -> Int[np.ndarray, "*M"]:
    """After how many values the mean is known to be above zero; 0 where it never is."""
    reached = wealths >= 1 / (1 - confidence)
    return np.where(reached.any(-1), reached.argmax(-1) + 1, 0)


def judged(
    reference: Float[np.ndarray, "T"], candidate: Float[np.ndarray, "T"], *, loss: float, confidence: float
) -> Verdict:
    """Whether the mean loss is known to be below ``loss``, or above it; each with this confidence."""
    gains = candidate - (1 - loss) * reference
    if rejected(wealth(gains, loss - 1), confidence):
        return "certified"
    return "fails" if rejected(wealth(-gains, -1.0), confidence) else "undecided"


def loss_bound(reference: Float[np.ndarray, "T"], candidate: Float[np.ndarray, "T"], *, confidence: float) -> float:
    """What the mean loss is at most, with this confidence at whatever time one looks; 1 where nothing is known."""
    losses = LOSSES[:-1, None]
    tests = wealth((candidate - (1 - losses) * reference) / (1 - losses), -1.0)
    open_ones = np.flatnonzero(rejected(tests, confidence) == 0)
    return float(LOSSES[open_ones[-1] + 1]) if len(open_ones) else -1.0


def fewest(share: float, *, loss: float, confidence: float) -> int:
    """Pairs that a candidate needs at least which always returns as much as a reference that returns this share."""
    growth = np.log1p(BOLDNESS * loss * share / (1 - loss))
    return int(np.ceil(-np.log(1 - confidence) / growth)) if growth > 0 else 2**31


# How many pairs it takes -------------------------------------------------------------------------------------------


def drawn(
    random: np.random.Generator,
    shape: tuple[int, ...],
    *,
    share: float,
    loss: float,
    spread: float,
    falls: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns of pairs of episodes, each with this mean loss.

    Args:
        random: where they come from.
        shape: of the pairs.
        share: the reference's mean return.
        loss: the candidate's mean loss.
        spread: deviation of each return.
        falls: whether the candidate loses everything in a few episodes, and nothing in the others.
    """

    def returns(mean: float) -> np.ndarray:
        size = max(mean * (1 - mean) / spread**2 - 1, 1e-3)
        return random.beta(mean * size, (1 - mean) * size, shape)

    candidate = returns(share) * (random.random(shape) >= loss) if falls else returns(share * (1 - loss))
    return returns(share), candidate


def pairs_needed(*, loss: float, confidence: float, most: int, ladders: int = 200) -> Iterator[tuple[str, ...]]:
    """Rows of a table: pairs within which nine of ten candidates are certified, by what they really lose.

    The columns are the mean real loss, then the rows of ``KINDS``.
    """
    random = np.random.default_rng(0)
    for real in (0, 0.2, 0.4, 0.6, 0.8):
        cells = [f"{real * loss:.1%}"]
        for kind in KINDS.values():
            reference, candidate = drawn(random, (ladders, most), loss=real * loss, **kind)
            found = rejected(wealth(candidate - (1 - loss) * reference, loss - 1), confidence)
            ninth = np.sort(np.where(found, found, most + 1))[int(0.9 * ladders)]
            cells.append(f"{ninth}" if ninth <= most else f"over {most}")
        yield tuple(cells)
