"""What a device could do at best, to hold plans and updates against."""

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

SMALLEST, LARGEST, ENOUGH_MS = 256, 16384, 20.0
"""Sizes of square products, doubled until one takes this long."""
REPEATS = 5


def milliseconds(call: Callable[[], object], device: torch.device) -> float:
    """The time of a call, up to the end of what it has the device do."""
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - started)


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Multiply-adds a second of the fastest large matrix product on a device; measured, not from a data sheet."""
    rate, size, fastest = 0.0, SMALLEST, 0.0
    while size <= LARGEST and fastest < ENOUGH_MS:
        factor = torch.randn(size, size, device=device).to(dtype)
        fastest = min(milliseconds(lambda factor=factor: factor @ factor, device) for _ in range(REPEATS))
        rate, size = max(rate, 1000 * size**3 / fastest), 2 * size
    return rate


def counted_macs(call: Callable[[], object]) -> int:
    """The multiply-adds of all matrix products in a call, backward passes included."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() // 2
