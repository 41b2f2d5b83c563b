"""What can be said of latencies from a finite number of them."""

from itertools import groupby

import numpy as np
from numpy.typing import ArrayLike

POINTS = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}


def summary(values: ArrayLike) -> dict[str, float | None]:
    """Least, percentiles and largest; a percentile beyond which less than one value lies is None.

    A percentile is a value that was measured, never a mean of two: of 1, 2, 3, 4 the median is 3.
    """
    samples = np.sort(np.asarray(values, np.float64))
    percentiles = {name: _percentile(samples, point) for name, point in POINTS.items()}
    return {"min": float(samples[0]), **percentiles, "max": float(samples[-1])}


def quantiles(values: ArrayLike, count: int = 1001) -> list[float]:
    """The distribution as so many values of equal probability, from the least to the largest, to draw from again."""
    return np.quantile(np.asarray(values, np.float64), np.linspace(0, 1, count), method="higher").round(5).tolist()


def _percentile(samples: np.ndarray, point: float) -> float | None:
    beyond = samples.size * (100 - point) / 100
    return None if beyond < 1 - 1e-9 else float(np.percentile(samples, point, method="higher"))


def upper_bound(misses: int, trials: int, confidence: float = 0.95) -> float:
    """What the true rate is at most, with this confidence: the exact bound of Clopper and Pearson.

    Without a miss it is nearly 3 / trials at 95 %, the rule of three. Biometrika 26 (1934), page 404.
    """
    return 1.0 if misses == trials else _rate(misses, trials, 1 - confidence)


def lower_bound(misses: int, trials: int, confidence: float = 0.95) -> float:
    """What the true rate is at least, with this confidence."""
    return 0.0 if misses == 0 else _rate(misses - 1, trials, confidence)


def _rate(misses: int, trials: int, probability: float) -> float:
    """The rate at which so many misses or fewer have this probability, by bisection: it falls as the rate grows."""
    counts = np.arange(1, misses + 1)
    # Binomial coefficients of 0, 1, ..., misses, as logarithms.
    choices = np.concatenate([[0.0], np.cumsum(np.log((trials - counts + 1) / counts))])
    numbers = np.arange(misses + 1)
    low, high = 0.0, 1.0
    for _ in range(60):
        rate = (low + high) / 2
        at_most = np.exp(choices + numbers * np.log(rate) + (trials - numbers) * np.log1p(-rate)).sum()
        low, high = (rate, high) if at_most > probability else (low, rate)
    return high


def longest_run(missed: ArrayLike) -> int:
    """Most misses in a row: 2 for ``0 1 1 0 1``."""
    runs = groupby(np.asarray(missed, bool).tolist())
    return max((sum(run) for _, run in runs), default=0)
