"""When how much is removed: frozen and pure, always against the initial widths, so that events do not compound.

A ramp r goes from 0 at the start to 1 at the end:

    cosine    (1 - cos(pi t)) / 2
    cubic     1 - (1 - t)^3                  Zhu and Gupta, arXiv 1710.01878
    linear    t
    one-shot  0, and 1 at the end

and the share removed is ``target * r`` (arXiv 1710.01878) or, with ``relative`` (ours), ``1 - (1 - target)^r``. The
first removes amounts of the whole, so that late events take the largest shares of the little that is left: of 12 cosine
events to 97 %, the last four take 37, 45, 51 and 36 % of what they find. The second ramps the logarithm of what is
left: the largest takes 37 %, the last four 30, 24, 16 and 6 %.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Shape = Literal["cosine", "cubic", "linear", "one-shot"]

RAMPS: dict[Shape, Callable[[float], float]] = {
    "cosine": lambda t: (1 - math.cos(math.pi * t)) / 2,
    "cubic": lambda t: 1 - (1 - t) ** 3,
    "linear": lambda t: t,
    "one-shot": lambda t: float(t >= 1),
}


@dataclass(frozen=True)
class Schedule:
    """Steps to the share that is to have been removed; steps are whatever the caller counts."""

    shape: Shape
    target: float
    start: int
    end: int
    events: int
    """Equally spaced from ``start`` on, the last one at ``end``."""
    relative: bool

    def events_by(self, step: int) -> int:
        """Events that are due by a step; beyond the end they go on at the same distance, to make up for undone ones."""
        if not self.target:
            return 0
        return max((step - self.start) * self.events // max(self.end - self.start, 1), 0)

    def cosine(self, step: int) -> float:
        """A cosine from 0 at the start to 1 at the end, whatever the shape."""
        return RAMPS["cosine"](min(max((step - self.start) / max(self.end - self.start, 1), 0.0), 1.0))

    def removed(self, event: int) -> float:
        """The share that is to have been removed after this event, counted from 1."""
        ramp = RAMPS[self.shape](min(event / self.events, 1.0))
        return 1 - (1 - self.target) ** ramp if self.relative else self.target * ramp

    def most(self, left: float, boldness: float = 1.0) -> float:
        """The share that may at most have been removed after an event that finds ``left`` of the whole.

        No event takes a larger part of what it finds than the schedule's own largest: what an undone event has left
        undone is not made up for in one stroke. With a boldness of a half it takes two events to take that much.
        """
        whole = [1 - self.removed(event) for event in range(self.events + 1)]
        return 1 - left * min(after / before for before, after in pairwise(whole)) ** boldness
