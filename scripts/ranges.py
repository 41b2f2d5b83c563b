"""Numbers on the command line that no command can work with."""

import math
from collections.abc import Iterable


def check(
    args: object, error: type[ValueError], *, positive: Iterable[str] = (), not_negative: Iterable[str] = ()
) -> None:
    """Refuse options outside of their range; those that are not given are left alone.

    Args:
        args: what was parsed; ``period_ms`` of it is the option ``--period-ms``.
        error: what is raised.
        positive: names of options that must be above zero.
        not_negative: names of options that must be zero or above.
    """
    kinds = (("positive", positive, lambda value: value > 0), ("0 or more", not_negative, lambda value: value >= 0))
    for expected, names, holds in kinds:
        for name in names:
            given = getattr(args, name)
            for value in given if isinstance(given, tuple) else (given,):
                if value is not None and not (holds(value) and math.isfinite(value)):
                    raise error(f"--{name.replace('_', '-')} must be {expected}, got {value}")
