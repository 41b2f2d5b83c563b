"""How compressible weights are, and how many of them a tolerance on the output asks for.

Two indices of a vector of ``D`` weights, both blind to its scale and larger where few weights carry it: the PQ index
(Diao et al., ICLR 2023, arXiv 2302.05601), with the number of weights below which its p-norm cannot be kept and
their rule SAP for what to prune; and soft sparsity, after the idea of Yang, Wang, Ding and Yang (arXiv 2206.05604),
with a number of weights that suffices. ``docs/sparsity.md`` derives what is stated here.

Axes: ``D`` the weights of a scope, ``*M`` scopes side by side.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def pq_index(w: Float[Tensor, "*M D"], p: float, q: float) -> Float[Tensor, "*M"]:
    """``1 - D^(1/q - 1/p) |w|_p / |w|_q``: 0 for equal weights, ``1 - D^(1/q - 1/p)`` where one carries all.

    A vector of zeros has index 1: nothing of it has to stay.

    Raises:
        ValueError: not ``0 < p < q``.
    """
    if not 0 < p < q:
        raise ValueError(f"the PQ index needs 0 < p < q, got p = {p} and q = {q}")
    return 1 - w.shape[-1] ** (1 / q - 1 / p) * _quotient(w, p, q, of_zero=0.0)


def pq_bound(w: Float[Tensor, "*M D"], p: float, q: float, *, eta: float = 0.0) -> Float[Tensor, "*M"]:
    """Weights that have to stay for ``sum_dropped |w|^p <= eta sum_kept |w|^p``, at least (arXiv 2302.05601)."""
    return w.shape[-1] * (1 + eta) ** (-q / (q - p)) * (1 - pq_index(w, p, q)) ** (p * q / (q - p))


def sap_pruned(
    w: Float[Tensor, "*M D"],
    p: float,
    q: float,
    *,
    remaining: Int[Tensor, "*M"] | None = None,
    eta: float = 0.0,
    gamma: float = 1.0,
    beta: float = 0.9,
) -> Int[Tensor, "*M"]:
    """How many of a scope's smallest weights one round of SAP prunes (arXiv 2302.05601, algorithm 1).

    The scope is the last axis: the rows of a weight for a neuron each, the flattened weight for a layer.

    Args:
        w: the weights of each scope.
        p: as ``pq_index``.
        q: as ``pq_index``.
        remaining: how many of each scope were not pruned before, where the pruned ones stand among them as zeros; all
            when not given. The bound does not see them: it is the same with and without.
        eta: as ``pq_bound``.
        gamma: share of what the bound leaves over that is pruned.
        beta: at most this share of the scope goes in a round.
    """
    count = torch.tensor(w.shape[-1]) if remaining is None else remaining.clamp(min=1)
    spare = (1 - pq_bound(w, p, q, eta=eta) / count).clamp(min=0)
    # What is a whole number on paper must not fall short of it by round-off: 4 x (1 - 1/4) is 3.
    return (count * (gamma * spare).clamp(max=beta) + 1e-9).floor().long()


def soft_sparsity(w: Float[Tensor, "*M D"], q: float) -> Float[Tensor, "*M"]:
    """``|w|_1 / |w|_q`` for ``0 < q < 1``: ``D^(1 - 1/q)`` for equal weights, 1 where one carries all, or none.

    Raises:
        ValueError: not ``0 < q < 1``.
    """
    _check_soft(q)
    return _quotient(w, 1, q, of_zero=1.0)


def weights_sufficient(w: Float[Tensor, "*M D"], tolerance: float, q: float) -> Int[Tensor, "*M"]:
    """A number of largest weights that leaves a tail of at most ``tolerance``, by the soft sparsity alone.

    The tail behind the k largest is at most ``c |w|_q k^(1 - 1/q)`` with the best constant ``c = q (1 - q)^(1/q - 1)``,
    1/4 for q = 1/2 (Foucart and Rauhut, *A Mathematical Introduction to Compressive Sensing*, 2013, theorem 2.5).
    With weights times the largest magnitude of their inputs, this keeps a neuron's output within ``tolerance``.
    """
    _check_soft(q)
    weak_norm = _weak_norm(w, q)
    kept = (weak_norm / tolerance) ** (q / (1 - q))
    return torch.where(_norm(w, 1) <= tolerance, 0.0, kept.ceil().clamp(max=w.shape[-1])).long()


def _weak_norm(w: Float[Tensor, "*M D"], q: float) -> Float[Tensor, "*M"]:
    """``c |w|_q``: what a tail is at most, times ``k^(1/q - 1)``."""
    return q * (1 - q) ** (1 / q - 1) * _norm(w, q)


def counts_at_one_level(w: Float[Tensor, "*M D"], total: int, q: float) -> Int[Tensor, "*M"]:
    """Weights of each scope that stay where all have one error level, and ``total`` or hardly fewer stay together.

    ``weights_sufficient`` at the least tolerance that asks for no more than ``total`` of them all: numbers in the ratio
    of ``|w|_q^(q/(1-q))``, none larger than what of a scope is not zero. Rows of one large and of two equal weights,
    ``[4, 0]`` and ``[1, 1]``, and a total of 2 give 1 and 1.

    Raises:
        ValueError: not ``0 < q < 1``.
    """
    _check_soft(q)
    weak_norm, whole, most = _weak_norm(w, q), _norm(w, 1), (w != 0).sum(-1)
    if most.sum() <= total:
        return most
    power = q / (1 - q)

    def asked(tolerance: float) -> Int[Tensor, "*M"]:
        return torch.where(whole <= tolerance, 0, torch.minimum(((weak_norm / tolerance) ** power).ceil().long(), most))

    low, high = math.log(weak_norm[most > 0].min() / (total + 1) ** (1 / power)), math.log(whole.max())
    for _ in range(60):  # asks for too many at low, for none at high
        middle = (low + high) / 2
        low, high = (low, middle) if asked(math.exp(middle)).sum() <= total else (middle, high)
    return asked(math.exp(high) * (1 + 1e-12))


def weights_needed(w: Float[Tensor, "*M D"], tolerance: float) -> Int[Tensor, "*M"]:
    """The least number of weights that leaves a tail of at most ``tolerance``: by sorting, [3, 2, 1] and 1 give 2."""
    tails = w.abs().double().sort(-1).values.cumsum(-1)
    return w.shape[-1] - (tails <= tolerance).sum(-1)


def _check_soft(q: float) -> None:
    if not 0 < q < 1:
        raise ValueError(f"soft sparsity needs 0 < q < 1, got {q}")


def _quotient(w: Tensor, p: float, q: float, *, of_zero: float) -> Tensor:
    above, below = _norm(w, p), _norm(w, q)
    return torch.where(below == 0, of_zero, above / torch.where(below == 0, 1.0, below))


def _norm(w: Tensor, p: float) -> Tensor:
    """The p-norm in double precision, in units of the largest weight so that no power runs over or under."""
    w = w.abs().double()
    largest = w.amax(-1, keepdim=True)
    unit = w / torch.where(largest == 0, 1.0, largest)
    return largest.squeeze(-1) * unit.pow(p).sum(-1) ** (1 / p)
