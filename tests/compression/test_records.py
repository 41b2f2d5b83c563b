"""Laws of records: a line a record, kept exactly on resume, and told where it is broken or finds no room."""

import os
from pathlib import Path
from typing import Any

import pytest

from tdmpc.compression.records import Journal, RecordError, read
from tests.tdmpc.conftest import file_limit


def journal(path: Path, *numbers: int) -> Journal:
    made = Journal(path)
    for number in numbers:
        made.append({"event": number})
    return made


def test_a_resumed_journal_has_the_lines_of_its_checkpoint(tmp_path: Path) -> None:
    """Later lines, and one cut short by a kill, are dropped before the next is written; earlier ones stay."""
    path = tmp_path / "events.jsonl"
    journal(path, 1, 2, 3)
    with path.open("a") as file:
        file.write('{"event": 4')
    resumed = Journal(path)
    resumed.resume(2)
    assert resumed.lines == 2 and read(path) == [{"event": 1}, {"event": 2}]
    resumed.append({"event": 5})
    assert read(path) == [{"event": 1}, {"event": 2}, {"event": 5}]
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_while_resuming_loses_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the shorter file has its name the longer one is there; where nothing is to be dropped none is written."""
    path = tmp_path / "events.jsonl"
    journal(path, 1, 2, 3)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        Journal(path).resume(3)
        with pytest.raises(KeyboardInterrupt):
            Journal(path).resume(2)
    assert len(read(path)) == 3


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    """A whole line that is no record is an error with file and line; one cut short at the end is left out."""
    path = tmp_path / "events.jsonl"
    for line in (b"torn", b"[]", b'{"event": 2\xb0}'):
        path.write_bytes(b'{"event": 1}\n%b\n{"event": 3}\n' % line)
        with pytest.raises(RecordError, match=r"events\.jsonl, line 2: .* remove that line"):
            read(path)
    path.write_text('{"event": 1}\n{"event"')
    assert read(path) == [{"event": 1}]


def test_a_record_that_finds_no_room_is_named(tmp_path: Path) -> None:
    """A record that does not fit onto the disk is an error with its file; a resume drops what was written of it."""
    path = tmp_path / "events.jsonl"
    made = journal(path, 1)
    with file_limit(path.stat().st_size + 5), pytest.raises(OSError, match="File too large") as caught:
        made.append({"event": 2})
    assert caught.value.filename == str(path) and read(path) == [{"event": 1}]
    made.resume(1)
    assert path.read_text() == '{"event": 1}\n'
