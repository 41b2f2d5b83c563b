"""What can be pruned, and how a smaller one compares."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, Self

from torch import Tensor

from tdmpc.compression.groups import Groups, Keep


class Judgement(NamedTuple):
    """A smaller model beside the one that it was cut from, on the same data."""

    before: Mapping[str, float]
    after: Mapping[str, float]
    worsening: Mapping[str, float]
    """How much worse it is in what matters, without units: 0 as good, 1 as bad as knowing nothing."""


class Prunable(Protocol):
    """What can be pruned."""

    @property
    def groups(self) -> Groups:
        """The table of its groups as it is."""
        ...

    def parameters(self) -> Mapping[str, Tensor]:
        """The parameters by name."""
        ...

    def shrunk(self, keep: Keep) -> Self:
        """A smaller copy with everything that belongs to its training; this one stays as it is."""
        ...

    def absorbed(self, keep: Keep) -> Self:
        """A copy of the same size in which the units that will stay do, as far as they can, what the others did."""
        ...

    def with_fresh_optimizer(self) -> Self:
        """The same model, its optimiser as at the beginning of training."""
        ...

    def judge(self, before: Self, draw: int) -> Judgement:
        """Compare with what it was cut from.

        Args:
            before: the larger one.
            draw: which data: the same number, the same data.
        """
        ...
