"""A device that stands in for a GPU where there is none, and is as strict about it.

Its tensors hold their numbers on the CPU, but PyTorch takes them for another device's: whatever mixes them with tensors
of the CPU, or reads their numbers without copying them first, fails as it would on a GPU.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import pytest
import torch
from torch.utils import backend_registration

NAME = "standin"
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default, torch.ops.aten._copy_from.default)
"""What may take tensors of two devices."""


class MixedDevices(RuntimeError):
    """An operator was given tensors of this device and of the CPU."""


class StandIn(torch.Tensor):
    """A tensor of the device around one of the CPU."""

    within: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, within: torch.Tensor) -> Self:
        sizes = {"strides": within.stride(), "storage_offset": within.storage_offset(), "dtype": within.dtype}
        tensor = torch.Tensor._make_wrapper_subclass(cls, within.shape, device=torch.device(NAME, 0), **sizes)
        tensor.within = within
        return tensor

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(operator, *args, **(kwargs or {}))

    def data_ptr(self) -> int:
        return self.within.data_ptr()

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        copied = self.detach().clone()
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        return memo.setdefault(id(self), copied)


def computed(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """What an operator makes on the device: computed on the CPU, after a look at where its tensors are."""
    given: list[torch.Tensor] = []
    outer: dict[int, StandIn] = {}

    def within(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            given.append(value)
        if isinstance(value, StandIn):
            outer[id(value.within)] = value
            return value.within
        return torch.device("cpu") if isinstance(value, torch.device) else value

    def around(value: Any) -> Any:
        known = outer.get(id(value))  # what an operator changes in place is not made anew
        if known is not None:
            return known
        return StandIn(value) if isinstance(value, torch.Tensor) else value

    inner, options = mapped(within, args), {name: mapped(within, value) for name, value in kwargs.items()}
    if operator not in COPIES and any(each.dim() and not isinstance(each, StandIn) for each in given):
        places = ", ".join(f"{tuple(each.shape)} on {each.device}" for each in given)
        raise MixedDevices(f"{operator} was given tensors of two devices: {places}")
    if operator is torch.ops.aten._copy_from.default:
        inner[1].copy_(inner[0])
        return args[1]
    results = operator(*inner, **options)
    leaves = operator is torch.ops.aten._to_copy.default and kwargs.get("device") == torch.device("cpu")
    return results if leaves else mapped(around, results)


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """The value, or each in a list or tuple, changed."""
    return type(value)(mapped(change, each) for each in value) if type(value) in (list, tuple) else change(value)


class Generator(torch.Generator):
    """PyTorch's, which cannot make one for a device that is written in Python."""

    def __new__(cls, device: torch.device | str = "cpu") -> Any:
        here = torch.device(device).type == NAME
        return super().__new__(cls) if here else _GENERATOR(device)

    @property
    def device(self) -> torch.device:
        return torch.device(NAME, 0)


_GENERATOR = torch.Generator


class Backend:
    """What PyTorch asks of the module ``torch.standin``."""

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


LIBRARY = torch.library.Library("_", "IMPL")


def register() -> None:
    """Make the device known for the rest of the process, before its first backward pass: that counts the devices."""
    if hasattr(backend_registration, "_setup_privateuseone_for_python_backend") and not hasattr(torch, NAME):
        backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
        LIBRARY.fallback(computed, "PrivateUse1")
        LIBRARY.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")  # casts nothing


@contextmanager
def in_use() -> Iterator[None]:
    """Let PyTorch make generators for the device, and new parameters where a module changes its precision."""
    if not hasattr(torch, NAME):
        pytest.skip("needs a PyTorch that takes devices written in Python")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "Generator", Generator)
        patch.setattr(torch.__future__, "_overwrite_module_params_on_conversion", True)
        yield
