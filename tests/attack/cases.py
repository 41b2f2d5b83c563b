"""What an attack is made of: cases, each of which breaks a law or does not, and can be repeated alone."""

import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple


class Case(NamedTuple):
    """One attack."""

    name: str
    attack: Callable[[Path], Iterable[str]]
    """Given an empty folder; tells in which ways a law was broken."""
    tries: int = 1
    """What it counts for in the summary."""


Part = Callable[[int, float], Iterator[Case]]
"""The cases of a seed, at a scale: 1 for all of them, less for fewer. They are the same for the same seed."""


def dice(*words: object) -> random.Random:
    """Random numbers of a seed and of what they are for: a case draws the same ones when it is repeated alone."""
    return random.Random(" ".join(map(str, words)))


def scaled(count: int, scale: float) -> int:
    """How many of so many; one at least."""
    return max(round(count * scale), 1)


def spread(cases: list[Case], scale: float) -> list[Case]:
    """Some of the cases, evenly from first to last."""
    count = min(scaled(len(cases), scale), len(cases))
    return [cases[number * len(cases) // count] for number in range(count)]
