"""Running statistics that make the agent independent of the units of observations and rewards."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


class ObservationMoments:
    """Mean and deviation of every observation seen, by Welford's update in double precision."""

    def __init__(self, dim: int) -> None:
        self.count = torch.zeros((), dtype=torch.float64)
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self.squares = torch.zeros(dim, dtype=torch.float64)

    def add(self, observations: Float[Tensor, "B O"]) -> None:
        """Take a batch of observations into account."""
        batch = observations.double()
        count = self.count + len(batch)
        delta = batch.mean(0) - self.mean
        self.squares += (batch - batch.mean(0)).square().sum(0) + delta.square() * (self.count * len(batch) / count)
        self.mean += delta * (len(batch) / count)
        self.count = count

    @property
    def std(self) -> Float[Tensor, "O"]:
        """Deviation of each coordinate; 1 for one that has not moved."""
        std = (self.squares / self.count.clamp(min=1)).sqrt()
        return torch.where(std > 0, std, torch.ones_like(std))

    def state(self) -> dict[str, Tensor]:
        """What ``load_state`` needs."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state."""
        self.count, self.mean, self.squares = (state[name].clone() for name in ("count", "mean", "squares"))


def power_of_two_above(value: float) -> float:
    """The least power of two that is not below a positive value: 3 -> 4, 0.2 -> 0.25, 8 -> 8."""
    return 2.0 ** math.ceil(math.log2(value))
