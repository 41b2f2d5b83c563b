"""Laws of the sparsity indices and of the numbers of weights that follow from them."""

import math
from collections.abc import Callable

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from hypothesis.extra.numpy import arrays
from torch import Tensor

from tdmpc.compression.sparsity import (
    pq_bound,
    pq_index,
    sap_pruned,
    soft_sparsity,
    weights_needed,
    weights_sufficient,
)

finite = st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda value: 0.0 if abs(value) < 1e-6 else value)
vectors = st.integers(1, 40).flatmap(lambda size: arrays(float, size, elements=finite)).map(torch.from_numpy)
below_one = st.floats(0.1, 0.9)
ROUND_OFF = 1 + 1e-9


def largest_first(w: Tensor) -> Tensor:
    return w.abs().sort(descending=True).values


def test_pq_index_by_hand() -> None:
    """For [1, 2, 2] the 1-norm is 5 and the 2-norm 3, so that the index is 1 - 5 / (3 sqrt 3)."""
    assert pq_index(torch.tensor([1.0, -2.0, 2.0]), 1, 2).item() == pytest.approx(1 - 5 / (3 * math.sqrt(3)))


def test_soft_sparsity_by_hand() -> None:
    """For [1, 4] the 1-norm is 5 and the 1/2-norm (1 + 2)^2, so that the index is 5/9."""
    assert soft_sparsity(torch.tensor([1.0, -4.0]), 0.5).item() == pytest.approx(5 / 9)


@given(vectors, st.sampled_from([(0.5, 1.0), (1.0, 2.0), (0.3, 0.4)]))
def test_pq_index_stays_between_its_ends(w: Tensor, powers: tuple[float, float]) -> None:
    """The index lies between that of equal weights, 0, and that of a single one, 1 - d^(1/q - 1/p)."""
    p, q = powers
    if w.any():
        assert -1e-9 <= pq_index(w, p, q).item() <= 1 - len(w) ** (1 / q - 1 / p) + 1e-9


@given(vectors, below_one)
def test_soft_sparsity_stays_between_its_ends(w: Tensor, q: float) -> None:
    """The index lies between that of equal weights, d^(1 - 1/q), and that of a single one, 1."""
    assert len(w) ** (1 - 1 / q) / ROUND_OFF <= soft_sparsity(w, q).item() <= ROUND_OFF


@pytest.mark.parametrize("index", [lambda w: pq_index(w, 0.5, 1), lambda w: soft_sparsity(w, 0.5)], ids=["pq", "soft"])
def test_the_scale_does_not_matter(index: Callable[[Tensor], Tensor]) -> None:
    """Weights of 1e-30 and of 1e30 have the index of weights of 1, in single precision too."""
    w = torch.tensor([0.1, 3.0, -1.0, 0.0])
    assert index(w * 1e-30).item() == pytest.approx(index(w).item(), rel=1e-6)
    assert index(w * 1e30).item() == pytest.approx(index(w).item(), rel=1e-6)


def test_ends_are_reached() -> None:
    """Equal weights and a single weight among zeros have the two ends as their indices."""
    equal, single = torch.full((9,), -0.7), torch.eye(9)[4]
    assert pq_index(equal, 0.5, 1).item() == pytest.approx(0)
    assert pq_index(single, 0.5, 1).item() == pytest.approx(1 - 1 / 9)
    assert soft_sparsity(equal, 0.5).item() == pytest.approx(1 / 9)
    assert soft_sparsity(single, 0.5).item() == 1


def test_a_single_weight_is_dense() -> None:
    """In a vector of one weight there is nothing to tell: PQ index 0, soft sparsity 1, and SAP leaves it."""
    w = torch.tensor([-2.0])
    assert pq_index(w, 1, 2).item() == 0
    assert soft_sparsity(w, 0.5).item() == 1
    assert sap_pruned(w, 1, 2).item() == 0


def test_zeros_need_nothing() -> None:
    """Of zeros nothing has to stay: PQ index 1, soft sparsity 1, no weight needed, and SAP takes what it may."""
    w = torch.zeros(10)
    assert (pq_index(w, 1, 2).item(), soft_sparsity(w, 0.5).item(), pq_bound(w, 1, 2).item()) == (1, 1, 0)
    assert weights_sufficient(w, 1e-9, 0.5).item() == weights_needed(w, 1e-9).item() == 0
    assert sap_pruned(w, 1, 2).item() == 9


@given(vectors, st.sampled_from([(0.5, 1.0), (1.0, 2.0)]), st.floats(0, 2), st.integers(0, 40))
def test_fewer_weights_than_the_bound_lose_more(w: Tensor, powers: tuple[float, float], eta: float, kept: int) -> None:
    """No choice of fewer weights than the PQ bound, the largest included, drops as little of |w|^p as eta allows."""
    p, q = powers
    mass = largest_first(w).pow(p)
    for order in (mass, mass[torch.randperm(len(w))]):
        stays, goes = order[:kept].sum().item(), order[kept:].sum().item()
        if kept < pq_bound(w, p, q, eta=eta).item() * (1 - 1e-9):
            assert goes > eta * stays * (1 - 1e-9)


@given(vectors)
def test_the_bound_counts_what_is_not_zero(w: Tensor) -> None:
    """With eta = 0 the PQ bound never exceeds the number of weights that are not zero."""
    assert pq_bound(w, 0.5, 1).item() <= w.count_nonzero().item() * ROUND_OFF


def test_sap_by_hand() -> None:
    """Of three zeros and one weight SAP prunes all zeros, or as many as beta and gamma let it."""
    w = torch.tensor([0.0, 0.0, 3.0, 0.0])
    assert sap_pruned(w, 1, 2).item() == 3
    assert sap_pruned(w, 1, 2, beta=0.5).item() == 2
    assert sap_pruned(w, 1, 2, gamma=0.5).item() == 1
    assert sap_pruned(torch.ones(4), 1, 2, eta=1.0).item() == 3  # 4 (1 - 2^-2)


def test_sap_scopes_differ() -> None:
    """A neuron of zeros beside one of equal weights: by neuron only the first is cut, by layer half of all."""
    weight = torch.tensor([[0.0] * 10, [1.0] * 10])
    assert sap_pruned(weight, 0.5, 1).tolist() == [9, 0]
    assert sap_pruned(weight.flatten(), 0.5, 1).item() == 10


def test_the_sufficient_number_cannot_be_smaller() -> None:
    """Of equal weights it leaves a tail as large as the tolerance, for q = 1/2."""
    assert weights_sufficient(torch.ones(8), 4, 0.5).item() == 4


@given(vectors, below_one, st.floats(1e-3, 1e3))
def test_sufficient_weights_suffice(w: Tensor, q: float, tolerance: float) -> None:
    """The number from soft sparsity leaves a tail within the tolerance, as does the least one, which is no larger."""
    sufficient, needed = weights_sufficient(w, tolerance, q).item(), weights_needed(w, tolerance).item()
    w = largest_first(w)
    assert w[sufficient:].sum().item() <= tolerance * ROUND_OFF
    assert w[needed:].sum().item() <= tolerance * ROUND_OFF
    assert needed == 0 or w[needed - 1 :].sum().item() > tolerance / ROUND_OFF
    assert needed <= sufficient or w[sufficient:].sum().item() == pytest.approx(tolerance)


@given(arrays(float, 12, elements=st.floats(-1, 1)).map(torch.from_numpy), st.floats(0.01, 3))
def test_a_neuron_stays_within_the_tolerance(w: Tensor, tolerance: float) -> None:
    """A tanh neuron that keeps its sufficient weights is off by at most the tolerance, whatever its bounded inputs."""
    bound = torch.linspace(0.1, 2, 12, dtype=torch.double)
    reach = w.abs() * bound
    kept = reach.sort(descending=True).indices[: int(weights_sufficient(reach, tolerance, 0.5))]
    pruned = torch.zeros_like(w).index_copy(0, kept, w[kept])
    inputs = bound * torch.cat([torch.rand(50, 12) * 2 - 1, w.sign()[None]])
    assert (torch.tanh(inputs @ w) - torch.tanh(inputs @ pruned)).abs().max().item() <= tolerance * ROUND_OFF


@pytest.mark.parametrize(("p", "q"), [(1, 1), (2, 1), (0, 1), (-1, 2)])
def test_powers_out_of_order_are_refused(p: float, q: float) -> None:
    """The PQ index takes 0 < p < q only."""
    with pytest.raises(ValueError, match="0 < p < q"):
        pq_index(torch.ones(3), p, q)


@pytest.mark.parametrize("q", [0, 1, 1.5])
def test_soft_powers_are_between_0_and_1(q: float) -> None:
    """Soft sparsity and what follows from it take 0 < q < 1 only."""
    for refuses in (soft_sparsity, lambda w, q: weights_sufficient(w, 1, q)):
        with pytest.raises(ValueError, match="0 < q < 1"):
            refuses(torch.ones(3), q)
