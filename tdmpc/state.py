"""Flat dictionaries of tensors, grouped by slashes in their names: what checkpoints are made of."""

from collections.abc import Mapping

from torch import Tensor


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``prefixed("a", {"x": 1})`` is ``{"a/x": 1}``."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``below("a", {"a/x": 1, "b/x": 2})`` is ``{"x": 1}``."""
    start = prefix + "/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
