"""What can be said from few values: means with bootstrap intervals, and rank correlations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import bootstrap, spearmanr, trim_mean

CONFIDENCE = 0.95
RESAMPLES = 10_000
TRIMMED = 0.25
"""Share of the values that the interquartile mean leaves out at each end: none of fewer than four."""

LEAST_PAIRS = 3
"""For a rank correlation."""


@dataclass(frozen=True)
class Estimate:
    """A figure, and the interval that it lies in with ``CONFIDENCE``; of one value no interval can be told."""

    value: float
    low: float | None = None
    high: float | None = None


def mean(values: Sequence[float]) -> Estimate:
    """Arithmetic mean of one or more values."""
    return _estimate(values, np.mean)


def interquartile_mean(values: Sequence[float]) -> Estimate:
    """Mean of the middle half: of 1, 2, 3, 100 it is 2.5."""
    return _estimate(values, lambda sample, axis: trim_mean(sample, TRIMMED, axis=axis))


def _estimate(values: Sequence[float], statistic: Callable[..., Any]) -> Estimate:
    value = float(statistic(np.asarray(values, float), axis=-1))
    if len(values) < 2:
        return Estimate(value)
    # Percentiles of the resampled statistic: corrections for bias need more values than seeds there are.
    found = bootstrap(
        (values,),
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Estimate(value, float(found.low), float(found.high))


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation, and the probability of one as large where there is none."""

    value: float
    p: float


def correlation(one: Sequence[float], other: Sequence[float]) -> Correlation | None:
    """Of pairs of values; None of fewer than ``LEAST_PAIRS``, or where one side is always the same."""
    if len(one) < LEAST_PAIRS or min(len(set(one)), len(set(other))) < 2:
        return None
    found: Any = spearmanr(one, other)
    return Correlation(float(found.statistic), float(found.pvalue))
