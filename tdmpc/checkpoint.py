"""Checkpoints: one safetensors file, written atomically, and beside it the pages with the rows of the replay.

Nothing is unpickled, so a checkpoint cannot execute code. The header of the file has the SHA-256 of all its bytes,
taken with zeros in that place, and names the pages (``pages.py``). The checkpoint before the last stays as
``checkpoint.previous.safetensors`` and is used when the last one cannot be read or is damaged.

This is format 2. Format 1 had no hash, and all rows in the file; it is still read.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tdmpc import pages
from tdmpc.files import sync
from tdmpc.pages import Pages

FORMAT_VERSION = 2
CURRENT = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"
STAGING = ".checkpoint"
"""Folder in which a checkpoint is written before it gets its name."""
BLANK = "0" * 64
SEAL = re.compile(rb'"sha256":"([0-9a-f]{64})"')
"""Where the hash stands. Quotes inside of a text of the header have a backslash, so nothing else looks like it."""
CHUNK = 1 << 20
UNREADABLE = (OSError, SafetensorError, KeyError, TypeError, ValueError)
"""What reading a damaged or a foreign file raises."""

log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message says what to do."""


class Checkpoint(NamedTuple):
    """What was saved."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    path: Path
    pages: Pages
    """Those that are known to be sound."""


def save(
    folder: Path,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    *,
    paged: Collection[str] = (),
    known: Pages | None = None,
) -> Checkpoint:
    """Write a checkpoint so that a kill at any moment leaves a readable one behind.

    Args:
        folder: the run folder.
        tensors: by name; slashes group them (``model/...``, ``replay/...``).
        meta: what JSON can hold.
        paged: tensors of equally many rows that are written in pages beside the file.
        known: pages of theirs that an earlier checkpoint of this folder has, with the same rows.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; the last checkpoint is untouched.
    """
    staging = folder / STAGING
    values = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items() if name not in paged}
    header = {"format_version": str(FORMAT_VERSION), "meta": json.dumps(dict(meta)), "sha256": BLANK}
    written: Pages = {}
    try:
        shutil.rmtree(staging, ignore_errors=True)  # what a kill left there
        staging.mkdir()
        if paged:
            tables = {name: tensors[name] for name in sorted(paged)}
            written = pages.write(folder, tables, known or {})
            rows = len(next(iter(tables.values())))
            header["pages"] = json.dumps({"rows": rows, "tables": list(tables), "files": sorted(written.values())})
        save_file(values, staging / CURRENT, header)
        _seal(staging / CURRENT)
        (staging / CURRENT).chmod(0o644)  # safetensors keeps it to its owner; colleagues read run folders too
        sync(staging / CURRENT)
        _rotate(folder, staging)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot write a checkpoint into {folder}: {error}. Free some space or make the folder writable, "
            f"then go on with: tdmpc train --resume {folder}"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        _drop_pages(folder)
    return Checkpoint(dict(tensors), dict(meta), folder / CURRENT, written)


def _rotate(folder: Path, staging: Path) -> None:
    """Name the new file first: should the current one be corrupt, the one before it is still there until then."""
    current, outgoing = folder / CURRENT, staging / PREVIOUS
    if current.exists():
        os.link(current, outgoing)
    os.replace(staging / CURRENT, current)
    if outgoing.exists():
        os.replace(outgoing, folder / PREVIOUS)
    sync(folder)


def _drop_pages(folder: Path) -> None:
    """Remove the pages that neither checkpoint needs; where one cannot be read, nobody knows, and all stay."""
    paths = [path for path in (folder / CURRENT, folder / PREVIOUS) if path.exists()]
    try:
        listed = [_paged(_header(path)) for path in paths]
        needed = {name for one in listed for name in one["files"]}
    except UNREADABLE:
        return
    pages.keep_only(folder, needed)


def _seal(path: Path) -> None:
    """Write the hash of a file into its header."""
    position, _, computed = _hashes(path)
    with path.open("r+b") as file:
        file.seek(position)
        file.write(computed)


def _hashes(path: Path) -> tuple[int, bytes, bytes]:
    """Where the hash of a file stands in it; what stands there; and what its bytes come to."""
    with path.open("rb") as file:
        size = file.read(8)  # of the header
        header = size + file.read(int.from_bytes(size, "little"))
        seal = SEAL.search(header)
        if seal is None:
            raise ValueError("its hash is missing")
        start, end = seal.span(1)
        hashed = hashlib.sha256(header[:start] + BLANK.encode() + header[end:])
        for chunk in iter(partial(file.read, CHUNK), b""):
            hashed.update(chunk)
    return start, seal[1], hashed.hexdigest().encode()


def load(folder: Path, *, prefixes: tuple[str, ...] = ("",)) -> Checkpoint:
    """Read the last good checkpoint of a run.

    Args:
        folder: the run folder.
        prefixes: names to read; reading ``("agent/",)`` leaves the pages of the replay alone.

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
        except UNREADABLE as error:
            problems.append(f"{path.name}: {error}")
            log.warning("%s cannot be read (%s); trying the one before it", path, error)
        else:
            return checkpoint
    raise CheckpointError(
        f"no checkpoint in {folder} can be read ({'; '.join(problems)}). The files are truncated or were not "
        "written by tdmpc; restore one from a copy or start a new run."
    )


def _read(path: Path, prefixes: tuple[str, ...]) -> Checkpoint:
    header = _header(path)
    version = int(header["format_version"])
    if version != 1:
        _, written, computed = _hashes(path)
        if written != computed:
            raise ValueError("it is damaged: its content does not have the hash in its header")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format {version}, this version of tdmpc reads up to {FORMAT_VERSION}: update tdmpc"
        )
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefixes)}  # noqa: SIM118
    paged, sound = _paged(header), {}
    if any(name.startswith(prefixes) for name in paged["tables"]):
        tables, sound = pages.read(path.parent, paged["files"], paged["rows"])
        tensors |= {name: table for name, table in tables.items() if name.startswith(prefixes)}
    return Checkpoint(tensors, json.loads(header["meta"]), path, sound)


def _header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def _paged(header: Mapping[str, str]) -> dict[str, Any]:
    """Which rows lie in pages, and in which."""
    return json.loads(header["pages"]) if "pages" in header else {"rows": 0, "tables": [], "files": []}


# Flat dictionaries of tensors, grouped by slashes in their names: what checkpoints are made of -----------------------


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``prefixed("a", {"x": 1})`` is ``{"a/x": 1}``."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``below("a", {"a/x": 1, "b/x": 2})`` is ``{"x": 1}``."""
    start = prefix + "/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
