"""Laws of the shape checks: what is wrong is refused, however often the function was called rightly before."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from tests.shapes import JAXTYPED, by_beartype, jaxtyped, looking_once


class Pair(NamedTuple):
    one: Tensor
    other: Any


def pointwise(left: Float[Tensor, "B N"], right: Float[Tensor, "B N"]) -> Float[Tensor, "B"]:
    return (left * right).sum(1 if left.shape[0] != 7 else 0)


def named(parts: Mapping[str, Float[Tensor, "B"]], kind: Literal["sum", "mean"] = "sum") -> float:
    return 0.0


def pairs(pair: Pair, *rest: Float[np.ndarray, "B"]) -> None: ...


def widened(pair: tuple[Tensor, int]) -> None: ...


@pytest.mark.parametrize(
    ("function", "right", "wrong"),
    [
        (pointwise, [torch.ones(2, 3)] * 2, [torch.ones(2, 3), torch.ones(2, 4)]),
        (pointwise, [torch.ones(2, 3)] * 2, [torch.ones(2, 3), torch.ones(2)]),
        (pointwise, [torch.ones(2, 3)] * 2, [torch.ones(2, 3, dtype=torch.int32)] * 2),
        (pointwise, [torch.ones(2, 3)] * 2, [np.ones((2, 3), np.float32)] * 2),
        (pointwise, [torch.ones(2, 3)] * 2, [torch.ones(7, 3)] * 2),
        (named, [{"a": torch.ones(2)}], [{"a": torch.ones(2, 2)}]),
        (named, [{"a": torch.ones(2)}, "mean"], [{"a": torch.ones(2)}, "most"]),
        (pairs, [Pair(torch.ones(1), 0), np.ones(2)], [(torch.ones(1), 0), np.ones(2)]),
        (pairs, [Pair(torch.ones(1), 0), np.ones(2)], [Pair(torch.ones(1), 0), np.ones(2), np.ones(3)]),
        (widened, [(torch.ones(1), 0)], [(0, torch.ones(1))]),
    ],
    ids=["widths", "axes", "dtype", "array", "result", "mapping", "literal", "tuple", "rest", "order"],
)
def test_what_is_wrong_is_refused(function: Callable[..., Any], right: list[Any], wrong: list[Any]) -> None:
    """Another shape, dtype, type or word than before is refused, in arguments and in what is returned."""
    function = jaxtyped()(function)
    for _ in range(3):
        function(*right)
        with pytest.raises(TypeCheckError):
            function(*wrong)


@pytest.mark.parametrize("given", [{}, None])
def test_what_is_returned_is_always_looked_at(given: Any) -> None:
    """A call of a known kind that returns something else than before is refused, and is made once."""
    answers: list[Any] = [torch.ones(2), torch.ones(2), torch.ones(3), [1], torch.ones(2), [1]]

    def answer(x: Float[Tensor, "N"], given: dict[str, bool] | None) -> Float[Tensor, "N"] | list[str]:
        return answers.pop(0)

    function = jaxtyped()(answer)
    for is_right in (True, True, False, False, True, False):
        if is_right:
            function(torch.ones(2), given)
        else:
            with pytest.raises(TypeCheckError):
                function(torch.ones(2), given)
    assert answers == []


def test_what_was_right_is_not_asked_again() -> None:
    """Calls of the same kind are checked once."""
    asked: list[Any] = []

    def whole(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: (asked.append(len(args[0])), JAXTYPED(typechecker=by_beartype)(function)(*args))[1]

    function = looking_once(pointwise, whole)
    for size in (2, 2, 3, 2, 3):
        function(torch.ones(size, 3), torch.ones(size, 3))
    assert asked == [2, 3]
