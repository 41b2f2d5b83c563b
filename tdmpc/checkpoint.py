"""Checkpoints: one safetensors file with every tensor and a JSON header, written atomically.

Nothing is unpickled, so a checkpoint cannot execute code. The one before the last stays as
``checkpoint.previous.safetensors`` and is used when the last one cannot be read.
"""

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT_VERSION = 1
CURRENT = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"
STAGING = ".checkpoint"
"""Folder in which a checkpoint is written before it gets its name."""

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
    staging = folder / STAGING
    header = {"format_version": str(FORMAT_VERSION), "meta": json.dumps(dict(meta))}
    try:
        shutil.rmtree(staging, ignore_errors=True)  # what a kill left there
        staging.mkdir()
        values = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(values, staging / CURRENT, header)
        (staging / CURRENT).chmod(0o644)  # safetensors keeps it to its owner; colleagues read run folders too
        _sync(staging / CURRENT)
        _rotate(folder, staging)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot write a checkpoint into {folder}: {error}. Free some space or make the folder writable, "
            f"then go on with: tdmpc train --resume {folder}"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder / CURRENT


def _rotate(folder: Path, staging: Path) -> None:
    """Name the new file first: should the current one be corrupt, the one before it is still there until then."""
    current, outgoing = folder / CURRENT, staging / PREVIOUS
    if current.exists():
        os.link(current, outgoing)
    os.replace(staging / CURRENT, current)
    if outgoing.exists():
        os.replace(outgoing, folder / PREVIOUS)
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
        except (OSError, SafetensorError, KeyError, ValueError) as error:
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
