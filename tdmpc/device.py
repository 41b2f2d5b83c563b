"""Where and in which precision an agent computes."""

import torch

from tdmpc.config import ConfigError, Precision, TrainConfig

WIDE = 256
"""Units of a layer from which bfloat16 is quicker without compilation, too."""


def find_device(name: str) -> torch.device:
    """The device of this name, for example ``cpu`` or ``cuda:1``.

    Raises:
        ConfigError: there is none on this machine.
    """
    try:
        found = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # AssertionError: PyTorch without CUDA
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {name} cannot be used on this machine: {reason}") from error
    if found.type == "meta":
        raise ConfigError("--device meta holds no numbers: choose cpu, or cuda where there is a GPU")
    return found


def resolve_precision(config: TrainConfig, device: torch.device) -> Precision:
    """The precision that ``auto`` stands for: bfloat16 where this machine multiplies it natively and layers are wide.

    Narrow layers gain only when they are compiled: else the conversions between precisions cost what products save.
    """
    if config.precision != "auto":
        return config.precision
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported()
    else:
        native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    wide = config.compile or max((*config.model.dynamics, *config.model.value)) >= WIDE
    return "bfloat16" if native and wide else "float32"
