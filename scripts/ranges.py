"""Numbers on the command line that no command can work with."""

import math
from collections.abc import Iterable

MOST = {"threads": 1024, "seed": 2**62 - 1, "seeds": 2**62 - 1, "windows": 10_000_000}
"""Largest values that anything can be done with."""
MOST_OF_OTHERS = 2**31 - 1


def check(
    args: object, error: type[ValueError], *, positive: Iterable[str] = (), not_negative: Iterable[str] = ()
) -> None:
    """Refuse options outside of their range; those that are not given are left alone.

    Args:
        args: what was parsed; ``period_ms`` of it is the option ``--period-ms``.
        error: what is raised.
        positive: names of options that must be above zero, and no more than ``MOST``.
        not_negative: names of options that must be zero or above, and no more than ``MOST``.
    """
    kinds = (("positive", positive, lambda value: value > 0), ("0 or more", not_negative, lambda value: value >= 0))
    for expected, names, holds in kinds:
        for name in names:
            given = getattr(args, name)
            for value in given if isinstance(given, tuple) else (given,):
                if value is not None and not (holds(value) and math.isfinite(value)):
                    raise error(f"--{name.replace('_', '-')} must be {expected}, got {value}")
                if value is not None and value > (most := MOST.get(name, MOST_OF_OTHERS)):
                    raise error(f"--{name.replace('_', '-')} must be at most {most}, got {value}")
