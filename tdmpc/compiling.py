"""Compiled functions: one for all agents of a process, and valid for all widths.

What is compiled knows a width only as a symbol. An agent that has been pruned, or one of another task, therefore runs
what was compiled for the first: a compilation costs one or two minutes, and PyTorch keeps it on the disk for later
runs. All other sizes (batch, horizon, samples) are constants in it. Code for a new width is never made, so it does not
depend on which widths came before, and a run that goes on computes bit for bit what it would have.
"""

import os
import shutil
import sysconfig
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config as symbolic_shapes

Function = TypeVar("Function", bound=Callable[..., object])

RECOMPILES = 64
"""Versions of a compiled function: one for each horizon, batch size and number of lanes; beyond, it runs eagerly."""
OPTIONS: dict[str, Any] = {"cpp.use_decompose_tanh": True}
"""Tanh by way of the exponential: several times faster than the library's on a CPU, and as exact where it matters."""
ON_CPU: dict[str, Any] = {"cpp_wrapper": True}
"""One C++ file for each function in place of one for each kernel: half of the time to compile."""
WORTH_IT = 10_000
"""Updates of a run from which compiling pays: it saves about 10 ms an update, and costs 100 s the first time."""


@cache
def compiled(function: Function, device: str) -> Function:
    """A function, compiled at its first call for this kind of device."""
    keep_on_disk()
    torch._dynamo.config.recompile_limit = RECOMPILES
    torch._dynamo.config.force_parameter_static_shapes = False
    symbolic_shapes.use_duck_shape = False  # layers that are equally wide today need not be so tomorrow
    options = {**OPTIONS, **(ON_CPU if device == "cpu" else {})}
    return cast(Function, torch.compile(function, dynamic=False, options=options))


def keep_on_disk() -> None:
    """Among the user's caches rather than among temporary files, if they can be written."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tdmpc" / "compiled"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if os.access(folder, os.W_OK):
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def of_any_width(model: nn.Module) -> None:
    """Let compiled functions take the sizes of a model's tensors for symbols."""
    for tensor in (*model.parameters(), *model.buffers()):
        of_any_size(tensor, *range(tensor.ndim))


def of_any_size(tensor: Tensor, *axes: int) -> None:
    """Let compiled functions take these sizes of an argument for symbols."""
    for axis in axes:
        torch._dynamo.maybe_mark_dynamic(tensor, axis)


def available() -> bool:
    """Whether PyTorch can compile for a CPU here: it needs a C++ compiler and Python's headers (``python3-dev``)."""
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return shutil.which(os.environ.get("CXX", "g++")) is not None and headers.exists()


def pays(updates: float, device: str) -> bool:
    """Whether a run of so many updates is over sooner when it compiles first."""
    return device == "cpu" and updates >= WORTH_IT and available()
