"""Laws of the statistics: known percentiles of known samples, and bounds that scipy agrees with."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from tdmpc.deploy.percentiles import longest_run, lower_bound, summary, upper_bound


def test_percentiles_of_known_samples() -> None:
    """Of 1, 2, ..., 1000 in any order, the percentiles are those that can be counted."""
    samples = np.random.default_rng(0).permutation(np.arange(1.0, 1001))
    found = summary(samples)
    assert found == {"min": 1, "p50": 501, "p90": 901, "p99": 991, "p999": 1000, "max": 1000}


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300))
def test_a_percentile_is_a_sample(samples: list[float]) -> None:
    """Each figure is one of the samples, they do not fall, and no more than its share lies beyond a percentile."""
    found = [value for value in summary(samples).values() if value is not None]
    assert set(found) <= set(samples) and found == sorted(found)
    p90 = summary(samples)["p90"]
    if p90 is not None:
        assert np.mean(np.array(samples) > p90) <= 0.1


@pytest.mark.parametrize(
    ("count", "known"), [(1, []), (2, ["p50"]), (99, ["p50", "p90"]), (999, ["p50", "p90", "p99"])]
)
def test_what_too_few_samples_cannot_tell_is_not_told(count: int, known: list[str]) -> None:
    """A percentile beyond which less than one sample lies is None: the 99.9th takes a thousand."""
    found = summary(np.arange(count))
    assert [name for name in ("p50", "p90", "p99", "p999") if found[name] is not None] == known


@pytest.mark.parametrize("misses", [0, 1, 7, 150, 299, 300])
def test_bounds_are_clopper_and_pearsons(misses: int) -> None:
    """Both one-sided bounds at 95 % are those of scipy's exact test."""
    greater = binomtest(misses, 300, alternative="greater").proportion_ci(0.95, method="exact")
    less = binomtest(misses, 300, alternative="less").proportion_ci(0.95, method="exact")
    assert lower_bound(misses, 300) == pytest.approx(greater.low, abs=1e-9)
    assert upper_bound(misses, 300) == pytest.approx(less.high, abs=1e-9)


@pytest.mark.parametrize("trials", [100, 3000, 1_000_000])
def test_no_miss_is_the_rule_of_three(trials: int) -> None:
    """Without a miss in n trials the rate is at most 3 / n, and hardly less."""
    assert 2.9 / trials < upper_bound(0, trials) < 3 / trials


def test_the_longest_run() -> None:
    """Misses in a row are counted, wherever they stand."""
    assert [longest_run(each) for each in ([], [0, 0], [1, 1, 0, 1], [0, 1, 1, 1])] == [0, 0, 2, 3]
