"""What a training loop sums up between two rows of metrics."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Tally:
    """Losses and times since the last logged episode."""

    def __init__(self, sums: dict[str, Tensor] | None = None, updates: int = 0, decisions: int = 0) -> None:
        self.sums = {name: value.clone() for name, value in (sums or {}).items()}
        self.updates = updates
        self.decisions = decisions
        self.seconds: dict[str, float] = {}

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Count one update's metrics."""
        self.updates += 1
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value

    @contextmanager
    def timer(self, name: str) -> Iterator[None]:
        """Add the time inside a ``with`` block to a part of the loop."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def summary(self) -> dict[str, float]:
        """Means over the updates, milliseconds for each decision or update, decisions a second."""
        means = {name: value.item() / self.updates for name, value in self.sums.items()}
        counts = {"update": self.updates, "replay": self.updates}
        times = {
            f"time/{name}_ms": 1000 * seconds / max(counts.get(name, self.decisions), 1)
            for name, seconds in self.seconds.items()
        }
        total = sum(self.seconds.values())
        return {**means, **times, "decisions_per_s": self.decisions / total if total else 0.0}
