"""What is decided for which decision: by plans, each for all decisions that it reaches, or for one decision alone."""

import numpy as np

from tdmpc.deploy.bundle import Bundle, actuate
from tdmpc.deploy.plan_runner import Made


class Agenda:
    """Plans and single actions by the number of the decision that they are for; actions in the actuators' units.

    A single action goes before plans, and a plan before those that began earlier:

        decision              4    5    6    7
        plan that began at 4  a0   a1   a2
        plan that began at 6            b0   b1
        single                     c
        what is due           a0   c    b0   b1
    """

    def __init__(self, described: Bundle) -> None:
        self._bundle = described
        self._plans: list[Made] = []
        self._single: dict[int, np.ndarray] = {}

    @property
    def newest(self) -> Made | None:
        """The plan that begins last."""
        return self._plans[-1] if self._plans else None

    def reset(self, single: dict[int, np.ndarray]) -> None:
        """Forget everything but these actions."""
        self._plans, self._single = [], dict(single)

    def add(self, plan: Made) -> None:
        """Add a plan that begins behind all others."""
        self._plans.append(plan)

    def put(self, decision: int, action: np.ndarray) -> None:
        """Decide for one decision."""
        self._single[decision] = action

    def action(self, decision: int) -> np.ndarray | None:
        """What is decided, if anything is."""
        if decision in self._single:
            return self._single[decision]
        for plan in reversed(self._plans):
            if len(left := plan.ahead(decision)):
                return actuate(left[0], self._bundle.low, self._bundle.high)
        return None

    def take(self, decision: int) -> tuple[np.ndarray | None, bool]:
        """What is due now, and whether a plan that should begin now is late; what was due before is forgotten."""
        begun = sum(plan.decision <= decision for plan in self._plans)
        self._plans = self._plans[max(begun - 1, 0) :]
        late = decision not in self._single and not any(plan.decision == decision for plan in self._plans)
        action = self.action(decision)
        self._single.pop(decision, None)
        return action, late

    def committed(self, before: np.ndarray, decision: int) -> list[np.ndarray]:
        """The action before a decision, and those that are due from it on, as many as the delay."""
        actions = [before]
        for number in range(decision, decision + self._bundle.delay):
            action = self.action(number)
            actions.append(actions[-1] if action is None else action)
        return actions

    def warm_start(self, decision: int) -> np.ndarray:
        """The newest plan from a decision on, ``Float32[H A]``; zeros where it does not reach."""
        mean = np.zeros((self._bundle.horizon, self._bundle.action_dim), np.float32)
        if self.newest is not None:
            left = self.newest.ahead(decision)
            mean[: len(left)] = left
        return mean
