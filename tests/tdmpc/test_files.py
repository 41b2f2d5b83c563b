"""Laws of files: whole or not there, and an error names the one that was meant."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from tdmpc.files import naming, write_whole
from tests.tdmpc.conftest import file_limit


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file has its old content or its new one, at each step of writing it, and on the disk before it has its name."""
    path, seen = tmp_path / "a.json", []
    write_whole(path, b"old")

    def look(name: str, call: Any) -> Any:
        return lambda *args: (seen.append((name, path.read_bytes())), call(*args))[1]

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, look(name, getattr(os, name)))
    write_whole(path, b"new")
    assert seen == [("fsync", b"old"), ("replace", b"old")] and path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """What does not fit leaves the old file and nothing else; the error names the file, not what it was written to."""
    path = tmp_path / "a.json"
    write_whole(path, b"old")
    with file_limit(10), pytest.raises(OSError, match="File too large") as caught:
        write_whole(path, b"new" * 10)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="Not a directory") as caught:
        write_whole(path / "b.json", b"new")
    assert caught.value.filename == str(path / "b.json")


def test_an_error_is_named() -> None:
    """An error that knows no file, or a temporary one, gets the name of the one that was meant; others pass."""
    for error in (OSError(errno.EIO, "I/O error"), OSError(errno.EXDEV, "Other device", "from", None, "to")):
        with pytest.raises(OSError, match=r"'a\.json'$"), naming(Path("a.json")):
            raise error
    with pytest.raises(KeyError), naming(Path("a.json")):
        raise KeyError
