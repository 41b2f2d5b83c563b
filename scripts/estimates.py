"""What can be said from few values, as rliable (Agarwal et al., arXiv 2108.13264) defines it; and rank correlations."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import bootstrap, spearmanr, trim_mean

CONFIDENCE = 0.95
RESAMPLES = 10_000
LEAST_PAIRS = 3
"""For a rank correlation."""


class Estimate(NamedTuple):
    """A figure, and the interval that it lies in with ``CONFIDENCE``; of one value no interval can be told."""

    value: float
    low: float | None = None
    high: float | None = None


def mean(values: Sequence[float]) -> Estimate:
    """Arithmetic mean of one or more values (rliable's ``aggregate_mean``)."""
    return _estimate(values, np.mean)


def interquartile_mean(values: Sequence[float]) -> Estimate:
    """Mean of the middle half (rliable's ``aggregate_iqm``): 2.5 of 1, 2, 3, 100; of fewer than four, their mean."""
    return _estimate(values, lambda sample, axis: trim_mean(sample, 0.25, axis=axis))


def _estimate(values: Sequence[float], statistic: Callable[..., Any]) -> Estimate:
    """With the percentile bootstrap over seeds (rliable's ``get_interval_estimates`` of one task)."""
    value = float(statistic(np.asarray(values, float), axis=-1))
    if len(values) < 2:
        return Estimate(value)
    # Corrections for bias need more values than seeds there are.
    settings: Any = {"n_resamples": RESAMPLES, "confidence_level": CONFIDENCE, "method": "percentile"}
    found = bootstrap((values,), statistic, **settings, rng=np.random.default_rng(0)).confidence_interval
    return Estimate(value, float(found.low), float(found.high))


def correlation(one: Sequence[float], other: Sequence[float]) -> Any:
    """Spearman's rank correlation of pairs of values, as scipy tells it: ``statistic``, ``pvalue``.

    None of fewer than ``LEAST_PAIRS``, or where one side is always the same.
    """
    if len(one) < LEAST_PAIRS or min(len(set(one)), len(set(other))) < 2:
        return None
    return spearmanr(one, other)
