"""How sparse a vector is: the PQ index (Diao et al., ICLR 2023, arXiv 2302.05601)."""

import torch
from jaxtyping import Float
from torch import Tensor


def pq_index(w: Float[Tensor, "*M D"], p: float, q: float) -> Float[Tensor, "*M"]:
    """Sparsity of each vector along the last axis: 0 for equal magnitudes, towards 1 for a single non-zero among many.

    ``I(w) = 1 - d^(1/q - 1/p) |w|_p / |w|_q`` for 0 < p < q; the scale of ``w`` does not matter. A vector of zeros has
    index 1: nothing of it has to stay.

    Raises:
        ValueError: p and q are not in that order.
    """
    if not 0 < p < q:
        raise ValueError(f"the PQ index needs 0 < p < q, got p = {p} and q = {q}")
    magnitudes = w.abs()
    largest = magnitudes.amax(-1, keepdim=True)
    unit = magnitudes / torch.where(largest > 0, largest, 1.0)  # powers of small weights would vanish
    ratio = torch.linalg.vector_norm(unit, p, dim=-1) / torch.linalg.vector_norm(unit, q, dim=-1)
    index = 1 - w.shape[-1] ** (1 / q - 1 / p) * ratio
    return torch.where(largest.squeeze(-1) > 0, index, 1.0)
