"""What can be said of a method from few seeds: mean and interquartile mean, with bootstrap intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import bootstrap, trim_mean

CONFIDENCE = 0.95
RESAMPLES = 10_000
TRIMMED = 0.25
"""Share of the values that the interquartile mean leaves out at each end: none of fewer than four."""


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
