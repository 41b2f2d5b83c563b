"""Laws of pages: all rows come back, whatever is written again, from either of two files."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tdmpc import pages
from tdmpc.pages import FOLDERS, keep_only, read, unchanged, write


@pytest.fixture(autouse=True, scope="module")
def small_pages() -> object:
    """Pages of four rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "PAGE", 4)
        yield


def tables_of(rows: int) -> dict[str, torch.Tensor]:
    numbers = torch.arange(float(rows))
    return {"flags": numbers % 2 == 0, "rows": torch.stack([numbers, -numbers], dim=1)}


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 5), st.sets(st.integers(0, 29))), min_size=1, max_size=6))
def test_rows_come_back(tmp_path_factory: pytest.TempPathFactory, saves: list[tuple[int, set[int]]]) -> None:
    """However rows are added and changed between saves, the pages written and those known are the tables."""
    folder = tmp_path_factory.mktemp("run")
    tables, known = tables_of(0), {}
    for more, written_to in saves:
        rows = len(tables["flags"])
        grown = tables_of(rows + more)
        for name, table in tables.items():
            grown[name][:rows] = table
        changed = np.zeros(100, bool)
        changed[rows : rows + more] = True
        for row in written_to:
            if row < rows + more:
                grown["rows"][row] += 1
                changed[row] = True
        tables, known = grown, write(folder, grown, unchanged(known, changed))
        back, sound = read(folder, sorted(known.values()), rows + more)
        assert sound == known
        assert all(torch.equal(back[name], table) and back[name].dtype == table.dtype for name, table in tables.items())


def test_a_page_that_was_written_to_is_not_known() -> None:
    """Pages without a changed row stay known."""
    changed = np.zeros(12, bool)
    changed[[4, 7]] = True
    assert unchanged({0: "a", 1: "b", 2: "c"}, changed) == {0: "a", 2: "c"}


def test_either_file_will_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where one of its two files is missing or damaged a page is read all the same; where both are, it is named."""
    written = write(tmp_path, tables_of(6), {})
    first, second = (tmp_path / name / written[1] for name in FOLDERS)
    sound = first.read_bytes()
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path, written.values(), 6)[1] == written and not caplog.text
        first.unlink()
        assert read(tmp_path, written.values(), 6)[1] == {0: written[0]}
        assert "its copy in" in caplog.text and str(first) in caplog.text
        first.write_bytes(sound)
        second.unlink()
        assert read(tmp_path, written.values(), 6)[1] == written
    first.write_bytes(sound[:-1])
    with pytest.raises(OSError, match="No such file"):
        read(tmp_path, written.values(), 6)
    second.write_bytes(sound[1:])
    with pytest.raises(ValueError, match=f"{second} is damaged"):
        read(tmp_path, written.values(), 6)


def test_a_page_is_replaced_whole(tmp_path: Path) -> None:
    """The same page written anew mends a damaged file; what is not needed goes, also what a kill left half written."""
    written = write(tmp_path, tables_of(6), {})
    damaged = tmp_path / FOLDERS[0] / written[0]
    damaged.write_bytes(b"")
    (tmp_path / FOLDERS[0] / f".{written[0]}.tmp").write_bytes(b"half")
    assert write(tmp_path, tables_of(6), {1: written[1]}) == written
    assert read(tmp_path, written.values(), 6)[1] == written
    keep_only(tmp_path, {written[1]})
    assert [path.name for name in FOLDERS for path in (tmp_path / name).iterdir()] == [written[1]] * 2
