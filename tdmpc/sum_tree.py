"""A tree of sums: draws in proportion to numbers that change, in logarithmic time."""

import numpy as np
from jaxtyping import Float, Int


class SumTree:
    """Non-negative numbers, one for each leaf, to draw from in proportion to their size.

    Children of node n are 2n and 2n + 1, the root is node 1, leaf i is node ``2**depth + i``. A parent is
    always computed anew from its two children, never moved by a difference: nothing drifts.
    """

    def __init__(self, leaves: int) -> None:
        self._depth = (leaves - 1).bit_length()
        self._first = 1 << self._depth
        self._nodes = np.zeros(2 * self._first)
        self._children = self._nodes.reshape(-1, 2)

    @property
    def total(self) -> float:
        """The sum of all leaves."""
        return float(self._nodes[1])

    def __getitem__(self, leaves: Int[np.ndarray, "B"] | slice) -> Float[np.ndarray, "B"]:
        return self._nodes[self._first :][leaves]

    def __setitem__(self, leaves: Int[np.ndarray, "B"], values: Float[np.ndarray, "B"] | float) -> None:
        nodes = leaves + self._first
        self._nodes[nodes] = values
        for _ in range(self._depth):
            nodes >>= 1
            left, right = self._children.take(nodes, axis=0).T
            self._nodes[nodes] = left + right

    def draw(self, uniform: Float[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        """The leaves at these fractions, from 0 to 1, of the total; never one that is zero."""
        rest = uniform * self.total
        nodes = np.ones(len(uniform), dtype=np.int64)
        for _ in range(self._depth):
            left, right = self._children.take(nodes, axis=0).T
            # Round-off can leave more to spend than the node holds: an empty right side is never entered.
            goes_right = (rest >= left) & (right > 0)
            rest -= left * goes_right
            nodes = 2 * nodes + goes_right
        return nodes - self._first
