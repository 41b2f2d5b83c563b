"""What ``--shape-checks`` puts around each function: jaxtyping and beartype, asked once about calls of the same kind.

Whether a call is right hangs on the types, shapes and dtypes of what is given and returned. What has once been found
right needs no second look, and looking takes longer than most of the functions do.
"""

import inspect
from collections.abc import Callable, Hashable, Iterable
from functools import wraps
from typing import Any

import beartype
import jaxtyping
import numpy as np
from torch import Tensor

JAXTYPED = jaxtyping.jaxtyped
by_beartype = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))  # an int will do for a float


def jaxtyped(*, typechecker: Any = by_beartype) -> Callable[[Any], Any]:
    """In the place of jaxtyping's own: what it makes of a function looks at each kind of call once."""
    whole = JAXTYPED(typechecker=typechecker)
    return lambda item: whole(item) if inspect.isclass(item) else looking_once(item, whole)


def looking_once(function: Callable[..., Any], whole: Callable[[Any], Any]) -> Callable[..., Any]:
    """The function; ``whole`` makes one that is checked at every call."""
    right: set[Hashable] = set()
    checked = whole(function)

    @wraps(function)
    def wrapped(*args: Any, **options: Any) -> Any:
        call = known((*args, *options.values()), *options)
        if call is None or call not in right:
            result = checked(*args, **options)
            returned = known((result,))
        else:
            result = function(*args, **options)
            returned = known((result,))
            if returned is None or (call, returned) not in right:
                whole(wraps(function)(lambda *_, **__: result))(*args, **options)
        if call is not None and returned is not None:
            right.update((call, (call, returned)))
        return result

    return wrapped


def known(values: Iterable[Any], *names: str) -> Hashable:
    """The kinds of values, and the names of the last of them; None where one has no kind."""
    try:
        kinds = (*map(kind, values), *names)
        hash(kinds)
    except TypeError:
        return None
    return kinds


def kind(value: Any) -> Hashable:
    """All that an annotation can ask of a value.

    Raises:
        TypeError: of a container that may hold anything, this is not told.
    """
    of = type(value)
    if of is Tensor or isinstance(value, ARRAYS):
        return of, value.dtype, value.shape
    if isinstance(value, tuple):
        return of, *map(kind, value)
    if isinstance(value, CONTAINERS):
        raise TypeError
    return value if of is str else of  # a word may be one of those that a Literal names


ARRAYS = Tensor, np.ndarray
CONTAINERS = list, dict, set, frozenset
