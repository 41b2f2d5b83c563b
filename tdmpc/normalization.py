"""Running statistics that make the agent independent of the units of observations and rewards."""

import torch
from jaxtyping import Float
from torch import Tensor

ROUNDING = 1e-6
"""A deviation below this, as a share of a sensor's value or in its units, is what single precision rounds away."""
LEAST_EXPONENT, LARGEST_EXPONENT = -100, 100


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
        """Deviation of each coordinate; 1 for one that has not moved by more than rounding does."""
        std = (self.squares / self.count.clamp(min=1)).sqrt()
        return torch.where(std > ROUNDING * (1 + self.mean.abs()), std, torch.ones_like(std))

    def state(self) -> dict[str, Tensor]:
        """What ``load_state`` needs."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state."""
        self.count, self.mean, self.squares = (state[name].clone() for name in ("count", "mean", "squares"))


class RewardMagnitudes:
    """How large the rewards are that were seen, zeros left aside: how many need which power of two."""

    def __init__(self) -> None:
        self.counts = torch.zeros(LARGEST_EXPONENT - LEAST_EXPONENT + 1, dtype=torch.int64)

    def add(self, rewards: Float[Tensor, "B"]) -> None:
        """Take rewards into account."""
        magnitudes = rewards[rewards != 0].abs().double()
        needed = magnitudes.log2().ceil().long().clamp(LEAST_EXPONENT, LARGEST_EXPONENT)
        self.counts.index_add_(0, needed - LEAST_EXPONENT, torch.ones_like(needed))

    @property
    def scale(self) -> float:
        """The least power of two that covers all rewards; 1 before the first."""
        needed = self.counts.nonzero()
        return 2.0 ** (LEAST_EXPONENT + int(needed[-1])) if len(needed) else 1.0
