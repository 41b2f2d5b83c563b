"""The episodes of a run: what those that are running have returned so far, and how the others ended."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tdmpc.env_faults import EnvironmentFault
from tdmpc.spec import EnvSpec
from tdmpc.vector_env import Transition

DIVERGENCES_IN_A_ROW = 10
"""Episodes of a lane, one after the other, that diverge before the run stops: little can be learned from such."""

log = logging.getLogger(__name__)


class Episodes:
    """Counts, lane by lane."""

    def __init__(self, lanes: int) -> None:
        self.ended = 0
        self.diverged = 0
        self.diverged_in_a_row = np.zeros(lanes, dtype=np.int64)
        self.returns = np.zeros(lanes)
        self.lengths = np.zeros(lanes, dtype=np.int64)
        self._warned = False

    def start(self, lanes: np.ndarray) -> None:
        """New episodes start in these lanes."""
        self.returns[lanes], self.lengths[lanes] = 0.0, 0

    def add(self, transition: Transition, spec: EnvSpec, *, env_steps: int) -> None:
        """Count a decision in every lane; warn once of a termination that the agent does not know of."""
        self.returns += transition.rewards
        self.lengths += transition.real
        if transition.terminated.any() and not (spec.terminates or self._warned):
            self._warned = True
            log.warning(
                "an episode terminated at environment step %s, and the agent was built for episodes that never do: "
                "without a termination head it plans past such an end. Start a new run with --terminates True",
                f"{env_steps:,}",
            )

    def count_divergences(self, transition: Transition, *, env_id: str, env_steps: int) -> None:
        """Tell of each simulation that diverged.

        Raises:
            EnvironmentFault: that of a lane did so again and again.
        """
        for lane in np.flatnonzero(transition.ended):
            reason = transition.diverged[lane]
            self.diverged += bool(reason)
            self.diverged_in_a_row[lane] = self.diverged_in_a_row[lane] + 1 if reason else 0
            if reason:
                log.warning(
                    "the simulation diverged at environment step %s, lane %d; its episode is cut there: %s",
                    *(f"{env_steps:,}", lane, reason),
                )
            if self.diverged_in_a_row[lane] >= DIVERGENCES_IN_A_ROW:
                count = f"{self.diverged_in_a_row[lane]} episodes in a row"
                raise EnvironmentFault(f"{env_id} diverged in {count}, in the last one by {reason}")

    def row(self, lane: int) -> dict[str, Any]:
        """What the metrics record of an episode that has ended."""
        return {
            "episode": self.ended,
            "return": float(self.returns[lane]),
            "length": int(self.lengths[lane]),
            "diverged": self.diverged,
        }

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors, and what JSON holds."""
        meta = {
            "episodes": self.ended,
            "diverged": self.diverged,
            "diverged_in_a_row": self.diverged_in_a_row.tolist(),
        }
        return {"returns": torch.from_numpy(self.returns), "lengths": torch.from_numpy(self.lengths)}, meta

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Go on from a saved state; the first ones knew no divergences."""
        self.returns, self.lengths = tensors["returns"].numpy().copy(), tensors["lengths"].numpy().copy()
        self.ended, self.diverged = meta["episodes"], meta.get("diverged", 0)
        self.diverged_in_a_row[:] = meta.get("diverged_in_a_row", 0)
