"""Files that are there whole or not at all, and errors that name them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that readers, a kill and a full disk see the old one or the new one, never a part.

    Raises:
        OSError: it could not be written; the error names the file, and the old one is untouched.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with naming(path):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an error name the file that was meant: a write that fails tells no name of its own."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        del error.filename2
        raise


@contextmanager
def going_on(command: str) -> Iterator[None]:
    """Have an error of the disk tell the command that goes on, where running the same again would not."""
    try:
        yield
    except OSError as error:
        error.add_note(f"go on with: {command}")
        raise


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
