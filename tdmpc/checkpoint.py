"""Checkpoints: one safetensors file with every tensor and a JSON header, written atomically.

Nothing is unpickled, so a checkpoint cannot execute code. The one before the last stays as
``checkpoint.previous.safetensors`` and is used when the last one cannot be read.
"""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT_VERSION = 1
CURRENT = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"

log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message says what to do."""


class Checkpoint(NamedTuple):
    """What was saved."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    path: Path


def save(folder: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Path:
    """Write a checkpoint so that a kill at any moment leaves a readable one behind.

    Args:
        folder: the run folder.
        tensors: by name; slashes group them (``model/...``, ``replay/...``).
        meta: what JSON can hold.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; the last checkpoint is untouched.
    """
    temporary = folder / f".{CURRENT}.tmp"
    header = {"format_version": str(FORMAT_VERSION), "meta": json.dumps(dict(meta))}
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, header)
        _sync(temporary)
        _rotate(folder, temporary)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"cannot write a checkpoint into {folder}: {error}. Free some space or make the folder writable, "
            f"then go on with: tdmpc train --resume {folder}"
        ) from error
    return folder / CURRENT


def _rotate(folder: Path, temporary: Path) -> None:
    current, previous = folder / CURRENT, folder / PREVIOUS
    if current.exists():
        # A second name for the current file first: there is no moment without a checkpoint under CURRENT.
        spare = folder / f".{PREVIOUS}.tmp"
        spare.unlink(missing_ok=True)
        os.link(current, spare)
        os.replace(spare, previous)
    os.replace(temporary, current)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load(folder: Path, *, prefixes: tuple[str, ...] = ("",)) -> Checkpoint:
    """Read the last good checkpoint of a run.

    Args:
        folder: the run folder.
        prefixes: names to read; reading ``("agent/",)`` leaves a large replay on the disk.

    Raises:
        CheckpointError: there is none, none can be read, or it was written by a newer version.
    """
    candidates = [path for path in (folder / CURRENT, folder / PREVIOUS) if path.exists()]
    if not candidates:
        raise CheckpointError(f"{folder} holds no checkpoint ({CURRENT}): is it a run folder made by 'tdmpc train'?")
    problems = []
    for path in candidates:
        try:
            checkpoint = _read(path, prefixes)
        except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
            problems.append(f"{path.name}: {error}")
            log.warning("%s cannot be read (%s); trying the one before it", path, error)
        else:
            return checkpoint
    raise CheckpointError(
        f"no checkpoint in {folder} can be read ({'; '.join(problems)}). The files are truncated or were not "
        "written by tdmpc; restore one from a copy or start a new run."
    )


def _read(path: Path, prefixes: tuple[str, ...]) -> Checkpoint:
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
        version = int(header["format_version"])
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has format {version}, this version of tdmpc reads up to {FORMAT_VERSION}: update tdmpc"
            )
        tensors = {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefixes)}  # noqa: SIM118
    return Checkpoint(tensors, json.loads(header["meta"]), path)
