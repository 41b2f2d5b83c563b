"""Laws of checkpoints: written whole or not at all, the last good one is found, nothing in them is executed."""

import errno
import logging
import os
import pickle
import resource
import shutil
import signal
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

from tdmpc import checkpoint
from tdmpc.checkpoint import CURRENT, PREVIOUS, CheckpointError, load, save


def write(folder: Path, number: int) -> Path:
    """A checkpoint that can be told by its number."""
    return save(folder, {"agent/weight": torch.full((3,), float(number))}, {"number": number})


def number_in(folder: Path) -> int:
    saved = load(folder)
    assert saved.tensors["agent/weight"].tolist() == [float(saved.meta["number"])] * 3
    return saved.meta["number"]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


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
        assert write(tmp_path, number) == tmp_path / CURRENT
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
        monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # the dead do not tidy up
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
    before, limits = names(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        with pytest.raises(CheckpointError, match="cannot write a checkpoint"):
            save(tmp_path, {"rows": torch.zeros(10_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert number_in(tmp_path) == 1 and names(tmp_path) == before


def test_a_missing_folder_is_a_checkpoint_error(tmp_path: Path) -> None:
    """A run folder that was taken away while it trained is told as one."""
    with pytest.raises(CheckpointError, match=r"cannot write a checkpoint into .*gone"):
        write(tmp_path / "gone", 1)


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
    with pytest.raises(CheckpointError, match=r"format 2, .* up to 1: update tdmpc"):
        load(tmp_path)
