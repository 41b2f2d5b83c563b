"""The rows of a replay in files of their own, so that a checkpoint writes only what is new.

A page is ``PAGE`` consecutive rows of all tables; the last one may be shorter. Its file is named by its number and the
hash of its content, and never changes: rows that were written to since go into another file. With a page of 4 rows,
7 rows at a first checkpoint and 9 at a second:

    rows            0 1 2 3   4 5 6 7   8
    first           000000-a  000001-b
    second          000000-a  000001-c  000002-d

Both checkpoints of a run read 000000-a, so every page lies in two folders: where one file is damaged, the other is
read. That takes no more of the disk than two checkpoints that held all rows each.
"""

import hashlib
import logging
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from safetensors.torch import load, save
from torch import Tensor

from tdmpc.files import sync, write_whole

PAGE = 1024
"""Rows of a page. A checkpoint rewrites at most this many that are not new; a million rows are a thousand files."""
FOLDERS = ("replay", "replay.copy")

log = logging.getLogger(__name__)

Pages = Mapping[int, str]
"""File names of pages, by their number."""


def unchanged(pages: Pages, changed: Bool[np.ndarray, "R"]) -> Pages:
    """The pages none of whose rows were changed."""
    touched = set((np.flatnonzero(changed) // PAGE).tolist())
    return {number: name for number, name in pages.items() if number not in touched}


def write(folder: Path, tables: Mapping[str, Tensor], known: Pages) -> Pages:
    """Write the pages of some tables that are not known to be there.

    Args:
        folder: the run folder.
        tables: tensors of equally many rows.
        known: pages of theirs that were written, or read, before.

    Returns:
        All pages, which are on the disk by now.
    """
    rows = len(next(iter(tables.values())))
    pages = dict(known)
    for name in FOLDERS:
        (folder / name).mkdir(exist_ok=True)
    for number in range(max(-(-rows // PAGE), 1)):  # no rows are one page too: it tells their shape
        if number not in known:
            part = slice(number * PAGE, (number + 1) * PAGE)
            content = save({name: table[part].contiguous() for name, table in tables.items()})
            pages[number] = f"{number:06d}-{_digest(content)}.safetensors"
            for name in FOLDERS:
                write_whole(folder / name / pages[number], content)
    for name in FOLDERS:
        sync(folder / name)
    return pages


def read(folder: Path, names: Iterable[str], rows: int) -> tuple[dict[str, Tensor], Pages]:
    """Read tables back, and tell which of their pages are sound: the others are to be written again.

    Args:
        folder: the run folder.
        names: of all pages, in their order.
        rows: how many the tables have.

    Raises:
        OSError: a page is missing.
        ValueError: a page is damaged in both folders.
    """
    tables: dict[str, Tensor] = {}
    sound = {}
    for number, name in enumerate(names):
        content, is_sound = _content(folder, name)
        for key, part in load(content).items():
            table = tables.setdefault(key, part.new_empty(rows, *part.shape[1:]))
            table[number * PAGE : number * PAGE + len(part)] = part
        if is_sound:
            sound[number] = name
    return tables, sound


def _content(folder: Path, name: str) -> tuple[bytes, bool]:
    """The content of a page, and whether the first of its two files has it."""
    first, second = (folder / each / name for each in FOLDERS)
    try:
        return _checked(first), True
    except (OSError, ValueError) as error:
        content = _checked(second)
        log.warning("%s; its copy in %s is sound and is taken", error, second.parent)
        return content, False


def _checked(path: Path) -> bytes:
    content = path.read_bytes()
    if path.stem.partition("-")[2] != _digest(content):
        raise ValueError(f"{path} is damaged: its content does not have the hash in its name")
    return content


def _digest(content: bytes) -> str:
    """Half of the SHA-256, which names can bear."""
    return hashlib.sha256(content).hexdigest()[:32]


def keep_only(folder: Path, needed: Collection[str]) -> None:
    """Remove all pages that are not needed, and what a kill left half written. What cannot be removed stays."""
    for path in [path for name in FOLDERS for path in (folder / name).glob("*") if path.name not in needed]:
        with suppress(OSError):
            path.unlink()
