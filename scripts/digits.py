"""Pictures of handwritten digits: scikit-learn's, or MNIST's from files that are there already."""

import gzip
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tdmpc.config import ConfigError


class Images(NamedTuple):
    """Pictures with values from 0 to 1, a row each."""

    train: Float[Tensor, "N X"]
    held_out: Float[Tensor, "N X"]
    """Judges pruning events."""
    test: Float[Tensor, "N X"]
    side: int


def digits() -> Images:
    """scikit-learn's digits, in a fixed order."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits come with scikit-learn: pip install 'tdmpc[train]'") from error
    pictures = torch.from_numpy(load_digits(return_X_y=True)[0]).float() / 16
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
    test, held_out, train = pictures[order].split([300, 200, len(pictures) - 500])
    return Images(train, held_out, test, side=8)


def mnist(folder: Path) -> Images:
    """MNIST from its IDX files.

    Raises:
        ConfigError: they are not there, or not what they should be.
    """
    train, test = (_read_idx(folder, f"{part}-images-idx3-ubyte") for part in ("train", "t10k"))
    return Images(train[1000:], train[:1000], test, side=math.isqrt(train.shape[1]))


def _read_idx(folder: Path, name: str) -> Float[Tensor, "N X"]:
    """Pictures of an IDX file: magic 0, 0, 8 (bytes), 3 (axes); three big-endian sizes; the bytes."""
    path = next((path for path in (folder / name, folder / f"{name}.gz") if path.exists()), None)
    if path is None:
        raise ConfigError(f"--mnist: {folder} has no {name} (or {name}.gz)")
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    sizes = np.frombuffer(content[4:16], ">u4").tolist()
    if content[:4] != bytes([0, 0, 8, 3]) or len(sizes) != 3 or len(content) != 16 + math.prod(sizes):
        raise ConfigError(f"--mnist: {path} is no IDX file of pictures, or is cut short")
    pictures = np.frombuffer(content, np.uint8, offset=16).reshape(sizes[0], -1)
    return torch.from_numpy(pictures.astype(np.float32) / 255)
