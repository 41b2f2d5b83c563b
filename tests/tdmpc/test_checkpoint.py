"""Laws of checkpoints: written whole or not at all, the last good one is found, nothing in them is executed."""

import errno
import json
import logging
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import save_file

from tdmpc import checkpoint, pages
from tdmpc.checkpoint import CURRENT, PREVIOUS, Checkpoint, CheckpointError, load, save
from tests.tdmpc.conftest import file_limit
from tests.tdmpc.outcomes import files_of


def write(folder: Path, number: int) -> Checkpoint:
    """A checkpoint that can be told by its number."""
    return save(folder, {"agent/weight": torch.full((3,), float(number))}, {"number": number})


def number_in(folder: Path) -> int:
    saved = load(folder)
    assert saved.tensors["agent/weight"].tolist() == [float(saved.meta["number"])] * 3
    return saved.meta["number"]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


PAGED = ("replay/flags", "replay/rows")
TABLE = torch.arange(60.0).reshape(20, 3)


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of four rows."""
    monkeypatch.setattr(pages, "PAGE", 4)


def tensors_of(number: int) -> dict[str, torch.Tensor]:
    """With 4 rows more for each checkpoint, and those of the second page written to each time."""
    rows = TABLE[: 4 * number + 2].clone()
    rows[4:8] += number
    weights = {"agent/weight": torch.full((3,), float(number)), "replay/leaves": rows[:, 0].clone()}
    return weights | {"replay/rows": rows, "replay/flags": rows[:, 0] % 2 == 0}


def write_paged(folder: Path, number: int, before: Checkpoint | None = None) -> Checkpoint:
    """A checkpoint with pages; those are known whose rows are as they were in the one before."""
    changed = np.zeros(len(TABLE), bool)
    changed[4:8] = changed[4 * number - 4 :] = True
    known = pages.unchanged(before.pages, changed) if before else {}
    return save(folder, tensors_of(number), {"number": number}, paged=PAGED, known=known)


def paged_number_in(folder: Path) -> int:
    """The number of the checkpoint that is loaded, whole."""
    saved = load(folder)
    expected = tensors_of(saved.meta["number"])
    assert saved.tensors.keys() == expected.keys()
    assert all(torch.equal(saved.tensors[name], value) for name, value in expected.items())
    return saved.meta["number"]


TENSORS = st.builds(
    lambda shape, dtype: (torch.randn(shape) * 9).to(dtype),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]),
)


@settings(max_examples=25)
@given(tensors=st.dictionaries(st.text("abc/", min_size=1, max_size=6), TENSORS, max_size=4))
def test_what_was_saved_is_loaded(tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, torch.Tensor]) -> None:
    """Tensors of every kind come back with their bits, and what JSON holds comes back equal."""
    folder = tmp_path_factory.mktemp("run")
    meta = {"config": {"env": "é", "widths": [8, 8]}, "huge": 2**100, "nothing": None}
    save(folder, tensors, meta)
    saved = load(folder)
    assert saved.meta == meta and saved.path == folder / CURRENT
    assert saved.tensors.keys() == tensors.keys()
    assert all(torch.equal(saved.tensors[name], tensor) for name, tensor in tensors.items())
    assert all(saved.tensors[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_views_are_saved(tmp_path: Path) -> None:
    """A slice of a larger tensor, and one that training uses, are saved as they look."""
    rows = torch.arange(12.0).reshape(3, 4).requires_grad_()
    save(tmp_path, {"column": rows[:, 1], "turned": rows.T, "numpy": torch.from_numpy(np.arange(9)[::2].copy())}, {})
    tensors = load(tmp_path).tensors
    assert tensors["column"].tolist() == [1, 5, 9] and tensors["numpy"].tolist() == [0, 2, 4, 6, 8]
    assert torch.equal(tensors["turned"], rows.detach().T)


def test_only_what_was_asked_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given prefixes, no other tensor is read from the disk."""
    save(tmp_path, {"agent/a": torch.ones(1), "agent/b/c": torch.ones(1), "replay/rows": torch.ones(9)}, {"step": 3})
    read = []

    class Spy:
        def __init__(self, *args: Any, **options: Any) -> None:
            self.opened = open_file(*args, **options)

        def __enter__(self) -> Any:
            self.file = self.opened.__enter__()
            return self

        def __exit__(self, *args: Any) -> None:
            self.opened.__exit__(*args)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def get_tensor(self, name: str) -> torch.Tensor:
            read.append(name)
            return self.file.get_tensor(name)

    open_file = checkpoint.safe_open
    monkeypatch.setattr(checkpoint, "safe_open", Spy)
    saved = load(tmp_path, prefixes=("agent/",))
    assert sorted(read) == sorted(saved.tensors) == ["agent/a", "agent/b/c"]
    assert saved.meta == {"step": 3}


# --------------------------------------------------------------------------------------------------- always a good one


def test_the_one_before_stays(tmp_path: Path) -> None:
    """A run folder holds the last checkpoint and the one before it, and nothing temporary."""
    for number in range(3):
        assert write(tmp_path, number).path == tmp_path / CURRENT
        assert number_in(tmp_path) == number
    assert names(tmp_path) == {CURRENT, PREVIOUS}
    (tmp_path / CURRENT).unlink()
    assert number_in(tmp_path) == 1


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_falls_back(tmp_path: Path, caplog: pytest.LogCaptureFixture, share: float) -> None:
    """However short the last checkpoint was cut, the one before it is loaded, and a warning names the file."""
    write(tmp_path, 1), write(tmp_path, 2)
    content = (tmp_path / CURRENT).read_bytes()
    (tmp_path / CURRENT).write_bytes(content[: int(share * len(content))])
    with caplog.at_level(logging.WARNING):
        saved = load(tmp_path)
    assert saved.meta["number"] == 1 and saved.path.name == PREVIOUS
    assert CURRENT in caplog.text


class Killed(BaseException):
    """Stands for SIGKILL: no handler of errors sees it."""


OPERATIONS = ["save_file", "fsync", "link", "replace", "unlink", "mkdir"]
SEAMS = ["save_file", "fsync 1", "link", "replace 1", "replace 2", "fsync 2"]


def kill_at(monkeypatch: pytest.MonkeyPatch, seam: str) -> None:
    """Die before the named step of a save; while the file is written, half of it is there."""
    name, _, number = seam.partition(" ")
    owner: Any = checkpoint if name == "save_file" else os
    call, left = getattr(owner, name), [int(number or 1)]

    def dying(*args: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0]:
            return call(*args, **options)
        if name == "save_file":
            call(*args, **options)
            os.truncate(args[1], args[1].stat().st_size // 2)
        for where, tidying in ((shutil, "rmtree"), (pages, "keep_only")):
            monkeypatch.setattr(where, tidying, lambda *_, **__: None)  # the dead do not tidy up
        raise Killed

    monkeypatch.setattr(owner, name, dying)


@pytest.mark.parametrize("corrupt", [False, True], ids=["sound", "corrupt"])
@pytest.mark.parametrize("seam", SEAMS)
def test_a_kill_at_any_moment_leaves_a_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seam: str, corrupt: bool
) -> None:
    """Whichever step of writing is the last one, a good checkpoint is found, also when the current one was corrupt."""
    write(tmp_path, 1), write(tmp_path, 2)
    if corrupt:
        (tmp_path / CURRENT).write_bytes(b"")
    with monkeypatch.context() as patch:
        kill_at(patch, seam)
        with pytest.raises(Killed):
            write(tmp_path, 3)
    assert number_in(tmp_path) in ({1, 3} if corrupt else {2, 3})
    write(tmp_path, 4)
    assert number_in(tmp_path) == 4 and names(tmp_path) == {CURRENT, PREVIOUS}


def test_every_seam_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save consists of the steps that the law above kills at, in this order: written and on the disk, then named."""
    write(tmp_path, 1)
    seen = []
    for owner, name in ((checkpoint, "save_file"), (os, "fsync"), (os, "link"), (os, "replace")):
        call = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, call=call, name=name: (seen.append(name), call(*args))[1])
    write(tmp_path, 2)
    assert seen == [seam.split()[0] for seam in SEAMS]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left on device")],
    ids=["OSError", "SafetensorError"],
)
def test_a_full_disk_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """When the disk is full, one error says so and how to go on; the last checkpoint stays, no temporary file does."""
    write(tmp_path, 1), write(tmp_path, 2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fill(tensors: Any, path: Path, header: Any) -> None:
        path.write_bytes(b"the first half")
        raise error

    monkeypatch.setattr(checkpoint, "save_file", fill)
    with pytest.raises(CheckpointError, match=r"No space left on device.*--resume") as caught:
        write(tmp_path, 3)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_disk_that_fills_up_meanwhile_costs_nothing(tmp_path: Path) -> None:
    """What the library itself raises when it cannot write on is told as a CheckpointError."""
    write(tmp_path, 1)
    before = names(tmp_path)
    with file_limit(10_000), pytest.raises(CheckpointError, match="cannot write a checkpoint"):
        save(tmp_path, {"rows": torch.zeros(10_000)}, {})
    assert number_in(tmp_path) == 1 and names(tmp_path) == before


def test_a_missing_folder_is_a_checkpoint_error(tmp_path: Path) -> None:
    """A run folder that was taken away while it trained is told as one."""
    with pytest.raises(CheckpointError, match=r"cannot write a checkpoint into .*gone"):
        write(tmp_path / "gone", 1)


# ------------------------------------------------------------------------------------------------ pages and their rows


@pytest.mark.usefixtures("small_pages")
def test_a_checkpoint_writes_what_is_new(tmp_path: Path) -> None:
    """Pages that an earlier checkpoint has are not written again; those that neither of the two needs are removed."""
    saved, written = None, []
    for number in range(1, 5):
        before = files_of(tmp_path)
        stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("0*")}
        saved = write_paged(tmp_path, number, saved)
        assert paged_number_in(tmp_path) == number
        assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items() if path.exists())
        new = files_of(tmp_path).keys() - before.keys()
        written.append(sorted(name.partition("-")[0] for name in new if name.startswith("replay/")))
        both = [names(tmp_path / folder) for folder in pages.FOLDERS]
        previous = set(load_previous(tmp_path)) if number > 1 else set()
        assert both[0] == both[1] == previous | set(saved.pages.values())
    # Of 4 rows each: page 1 is written to in between, the last one is not full yet, and grows.
    assert written == [
        ["replay/000000", "replay/000001"],
        ["replay/000001", "replay/000002"],
        ["replay/000001", "replay/000002", "replay/000003"],
        ["replay/000001", "replay/000003", "replay/000004"],
    ]


def load_previous(folder: Path) -> list[str]:
    return checkpoint._paged(checkpoint._header(folder / PREVIOUS))["files"]


@pytest.mark.usefixtures("small_pages")
def test_rows_that_are_not_asked_for_stay_on_the_disk(tmp_path: Path) -> None:
    """An agent is read without a page of the replay; whoever asks for rows without them is told which is missing."""
    write_paged(tmp_path, 2)
    for folder in pages.FOLDERS:
        shutil.rmtree(tmp_path / folder)
    assert load(tmp_path, prefixes=("agent/",)).tensors.keys() == {"agent/weight"}
    with pytest.raises(CheckpointError, match=r"No such file .*replay.copy/000000-"):
        load(tmp_path, prefixes=("replay/",))


def test_no_rows_are_rows(tmp_path: Path) -> None:
    """A replay without a row comes back with its shapes and types."""
    save(tmp_path, {"replay/rows": TABLE[:0], "replay/flags": TABLE[:0, 0] > 0}, {}, paged=PAGED)
    tensors = load(tmp_path).tensors
    assert tensors["replay/rows"].shape == (0, 3) and tensors["replay/flags"].dtype == torch.bool


def test_a_dump_is_one_file(tmp_path: Path) -> None:
    """Without pages everything is in the file, so that it can be taken elsewhere alone."""
    save(tmp_path, tensors_of(2), {"number": 2})
    assert names(tmp_path) == {CURRENT} and paged_number_in(tmp_path) == 2


@pytest.mark.usefixtures("small_pages")
def test_a_flipped_bit_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever bit of a checkpoint or of its pages is flipped, what is loaded is whole: with a warning, where the bit
    mattered, the same from the page's copy, or the checkpoint before.
    """
    needed = {CURRENT, *write_paged(tmp_path, 3, write_paged(tmp_path, 2)).pages.values()}
    files = [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    ends = np.cumsum([path.stat().st_size for path in files])
    loaded = {2: 0, 3: 0}
    version = files.index(tmp_path / CURRENT), (tmp_path / CURRENT).read_bytes().index(b'"format_version":"2"')
    first = 8 * (int(ends[version[0]]) - files[version[0]].stat().st_size + version[1])
    bits = np.random.default_rng(0).choice(8 * ends[-1], 300, replace=False).tolist()
    for bit in [*bits, *range(first, first + 8 * 20)]:  # the version tells how to look for damage
        file = int(np.searchsorted(ends, bit // 8, side="right"))
        path, content = files[file], bytearray(files[file].read_bytes())
        content[bit // 8 - ends[file]] ^= 1 << bit % 8
        sound = path.read_bytes()
        path.write_bytes(content)
        caplog.clear()
        number = paged_number_in(tmp_path)
        assert number == (2 if path.name == CURRENT else 3)
        assert (path.name in caplog.text) == (path.name in needed and path.parent.name != "replay.copy")
        path.write_bytes(sound)
        loaded[number] += 1
    assert min(loaded.values()) > 30


@pytest.mark.usefixtures("small_pages")
def test_a_damaged_page_is_mended(tmp_path: Path) -> None:
    """A page that was read from its copy is not taken for known, so that the next checkpoint writes it anew."""
    written = write_paged(tmp_path, 3)
    page = tmp_path / "replay" / written.pages[0]
    sound = page.read_bytes()
    page.write_bytes(b"torn")
    saved = load(tmp_path)
    assert saved.pages == {number: name for number, name in written.pages.items() if number != 0}
    save(tmp_path, saved.tensors, saved.meta, paged=PAGED, known=saved.pages)
    assert page.read_bytes() == sound and load(tmp_path).pages == written.pages


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("corrupt", [False, True], ids=["sound", "corrupt"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_kill_at_any_moment_leaves_whole_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, corrupt: bool
) -> None:
    """Killed before each step of saving pages, checkpoint and names, and of tidying up, a run has all rows of one."""
    kills = 0
    while True:
        folder = tmp_path / str(kills)
        folder.mkdir()
        write_paged(folder, 3, write_paged(folder, 2, write_paged(folder, 1)))
        before = load(folder)
        if corrupt:
            (folder / CURRENT).write_bytes(b"")
        with monkeypatch.context() as patch:
            kill_at(patch, f"{operation} {kills + 1}")
            try:
                saved = write_paged(folder, 4, before)
            except Killed:
                kills += 1
            else:
                break
        assert paged_number_in(folder) in ({2, 4} if corrupt else {3, 4})
        write_paged(folder, 4, before if corrupt else load(folder))
        assert paged_number_in(folder) == 4
    assert kills >= {"unlink": 0 if corrupt else 2, "fsync": 10, "replace": 8}.get(operation, 1)
    assert paged_number_in(folder) == 4 and saved.meta["number"] == 4


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("operation", ["save_file", "fsync", "link", "replace", "mkdir"])
def test_a_disk_that_fills_up_at_any_moment_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """Wherever the disk fills up in a save, the checkpoints and their pages stay as they were, and nothing is added."""
    before = write_paged(tmp_path, 3, write_paged(tmp_path, 2))
    content, moments = files_of(tmp_path), 0
    owner: Any = checkpoint if operation == "save_file" else os
    call = getattr(owner, operation)
    while True:
        left = [moments]

        def filling(*args: Any, left: list[int] = left, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return call(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(owner, operation, filling)
            try:
                write_paged(tmp_path, 4, before)
            except CheckpointError:
                moments += 1
            else:
                break
        if load(tmp_path).meta["number"] == 4:  # only the folder's names were not on the disk yet
            break
        assert files_of(tmp_path) == content
    assert moments >= 1 and paged_number_in(tmp_path) == 4


def test_a_checkpoint_of_the_first_format_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A checkpoint without a hash and with all rows inside is read, and a later one puts them into pages."""
    save_file(tensors_of(1), tmp_path / CURRENT, {"format_version": "1", "meta": json.dumps({"number": 1})})
    assert paged_number_in(tmp_path) == 1 and load(tmp_path).pages == {} and not caplog.text
    write_paged(tmp_path, 2, load(tmp_path))
    assert paged_number_in(tmp_path) == 2
    (tmp_path / CURRENT).unlink()
    assert paged_number_in(tmp_path) == 1


# ----------------------------------------------------------------------------------------------------- what is refused


def test_an_empty_folder_holds_none(tmp_path: Path) -> None:
    """A folder without a checkpoint is told apart from one whose checkpoint is broken."""
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CheckpointError, match="holds no checkpoint"):
            load(folder)


def foreign_header(path: Path) -> None:
    save_file({"weight": torch.ones(2)}, path, {"format": "pt"})


def foreign_version(path: Path) -> None:
    save_file({"weight": torch.ones(2)}, path, {"format_version": "v2-beta", "meta": "{}"})


def foreign_meta(path: Path) -> None:
    save_file({"weight": torch.ones(2)}, path, {"format_version": "1", "meta": "not JSON"})


class Bomb:
    """What a malicious pickle does when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


FOREIGN: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello, I am no checkpoint"),
    "pickle": lambda path: path.write_bytes(pickle.dumps(Bomb())),
    "torch": lambda path: torch.save({"weights": Bomb()}, path),
    "huge header": lambda path: path.write_bytes(b"\xff" * 64),
    "no header": lambda path: save_file({"weight": torch.ones(2)}, path),
    "foreign header": foreign_header,
    "foreign version": foreign_version,
    "foreign meta": foreign_meta,
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_foreign_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object]
) -> None:
    """What is not ours is one CheckpointError that names the file and says what to do, and none of it is executed."""
    monkeypatch.chdir(tmp_path)
    make(tmp_path / CURRENT)
    with pytest.raises(CheckpointError, match=r"can be read .*checkpoint\.safetensors.*restore one from a copy"):
        load(tmp_path)
    assert not Path("exploded").exists()


def test_the_future_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of a later format asks for an update and never falls back to an older checkpoint."""
    write(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT_VERSION", checkpoint.FORMAT_VERSION + 1)
        write(tmp_path, 2)
    with pytest.raises(CheckpointError, match=r"format 3, .* up to 2: update tdmpc"):
        load(tmp_path)
