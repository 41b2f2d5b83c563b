"""Laws of the tree of sums."""

from math import fsum

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdmpc.sum_tree import SumTree


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.lists(st.integers(0, n - 1))))))
def test_the_tree_does_not_drift(case):
    """After any updates the tree is the one that is built at once from its leaves, and its total is their sum."""
    leaves, updates = case
    rng = np.random.default_rng(0)
    tree, values = SumTree(leaves), np.zeros(leaves)
    for update in updates:
        chosen = np.array(update, dtype=np.int64)
        values[chosen] = 10 ** rng.uniform(-12, 12, leaves)[chosen] * rng.integers(0, 2, leaves)[chosen]
        tree[chosen] = values[chosen]
    fresh = SumTree(leaves)
    fresh[np.arange(leaves)] = values
    assert tree.total == fresh.total == pytest.approx(fsum(values), rel=1e-14)
    assert np.array_equal(tree[np.arange(leaves)], values)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40).filter(any))
def test_the_tree_gives_each_leaf_its_share(values):
    """Evenly spaced fractions of the total fall to the leaves in order, each as often as it is large."""
    tree = SumTree(len(values))
    tree[np.arange(len(values))] = np.array(values, dtype=np.float64)
    fractions = (np.arange(sum(values)) + 0.5) / sum(values)
    assert tree.draw(fractions).tolist() == np.repeat(np.arange(len(values)), values).tolist()


@given(st.lists(st.sampled_from([0.0, 0.1, 1e-9, 1 / 3, 7e8]), min_size=1, max_size=40).filter(any))
def test_round_off_never_draws_an_empty_leaf(values):
    """A leaf of zero is not drawn, not even at the edges between leaves and at the very end."""
    tree = SumTree(len(values))
    tree[np.arange(len(values))] = np.array(values)
    edges = np.cumsum(values) / tree.total
    fractions = np.concatenate(([0.0, 1.0], edges, np.nextafter(edges, 0), np.nextafter(edges, 1))).clip(0, 1)
    assert (tree[tree.draw(fractions)] > 0).all()
