"""What a scalar head (reward, value) puts out, how it is read and how it is fitted.

TD-MPC regresses scalars by squared error. A two-hot head (TD-MPC2, arXiv 2310.16828) would
be a second object with the same three members.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Regression:
    """A scalar as itself, fitted by squared error."""

    outputs: int = 1

    def read(self, output: Float[Tensor, "*M Y"]) -> Float[Tensor, "*M"]:
        """The scalar that a network output stands for."""
        return output.squeeze(-1).float()

    def loss(self, output: Float[Tensor, "*M Y"], target: Float[Tensor, "*M"]) -> Float[Tensor, "*M"]:
        """How far the output is from the target, element by element."""
        return (self.read(output) - target).square()
