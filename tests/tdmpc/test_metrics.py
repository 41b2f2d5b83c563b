"""Laws of the rows: files tell the truth and survive a kill, every sink hears everything."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdmpc.metrics import JsonlSink, Metrics, MetricsError, Sink, read_rows
from tests.tdmpc.conftest import file_limit, train_row


def write_rows(path: Path, *env_steps: int) -> None:
    with JsonlSink(path) as sink:
        for step in env_steps:
            sink.log(train_row(step))


def steps_in(path: Path) -> list[Any]:
    return [row["env_steps"] for row in read_rows(path)]


def test_rows_come_back_as_logged(tmp_path: Path) -> None:
    """A row is on the disk, as one line, before ``log`` returns, and reads back equal."""
    path = tmp_path / "metrics.jsonl"
    with JsonlSink(path) as sink:
        sink.log(train_row(8, note="é"))
        assert read_rows(path) == [train_row(8, note="é")]
        sink.log(train_row(16))
        assert len(path.read_text().splitlines()) == 2


def test_non_finite_numbers_become_null(tmp_path: Path) -> None:
    """NaN and infinities are written as null, so that every line is JSON as the standard has it."""
    path = tmp_path / "metrics.jsonl"
    with JsonlSink(path) as sink:
        sink.log(train_row(8, a=float("nan"), b=float("inf"), c=-np.inf, d=np.float32("nan")))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    row = json.loads(path.read_text(), parse_constant=refuse)
    assert [row[key] for key in "abcd"] == [None] * 4


def test_numpy_scalars_are_taken(tmp_path: Path) -> None:
    """Scalars of numpy are logged as the python numbers they stand for."""
    path = tmp_path / "metrics.jsonl"
    with JsonlSink(path) as sink:
        row: Any = {"kind": "eval", "env_steps": np.int64(8), "return_mean": np.float32(0.5)}
        sink.log(row)
    assert read_rows(path) == [{"kind": "eval", "env_steps": 8, "return_mean": 0.5}]


@pytest.mark.parametrize("row", [{"kind": "train"}, {"env_steps": 8}, {"kind": "train", "env_steps": 0.5}])
def test_a_row_without_steps_or_kind_is_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    """Every row has whole ``env_steps`` and a ``kind``; the error says so."""
    with Metrics([JsonlSink(tmp_path / "metrics.jsonl")]) as metrics, pytest.raises(TypeError, match="env_steps"):
        metrics.log(row)


def test_a_row_holds_numbers_and_strings_only(tmp_path: Path) -> None:
    """What is neither a number nor a string is refused by its key."""
    with JsonlSink(tmp_path / "metrics.jsonl") as sink, pytest.raises(TypeError, match="'histogram'"):
        sink.log(train_row(8, histogram=[1, 2]))


def test_resume_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    """A resumed file holds the rows up to the checkpoint, then the new ones."""
    path = tmp_path / "metrics.jsonl"
    write_rows(path, 8, 16, 24, 32)
    with JsonlSink(path, resume_at=16) as sink:
        assert steps_in(path) == [8, 16]
        sink.log(train_row(24))
    assert steps_in(path) == [8, 16, 24]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_resume_before_the_first_row(tmp_path: Path) -> None:
    """A run killed before its first row resumes into a new file."""
    with JsonlSink(tmp_path / "metrics.jsonl", resume_at=0) as sink:
        sink.log(train_row(8))
    assert steps_in(tmp_path / "metrics.jsonl") == [8]


def eval_row(env_steps: int, value: float) -> dict[str, Any]:
    return {"kind": "eval", "env_steps": env_steps, "return_mean": value}


def test_an_evaluation_stands_once(tmp_path: Path) -> None:
    """An evaluation that is made again, after a resume or not, takes the place of the one before; other rows stay."""
    path = tmp_path / "metrics.jsonl"
    with JsonlSink(path) as sink:
        for row in (train_row(8), eval_row(8, 1.0), train_row(16), eval_row(16, 2.0)):
            sink.log(row)
        sink.log(eval_row(16, 3.0))
    assert read_rows(path) == [train_row(8), eval_row(8, 1.0), train_row(16), eval_row(16, 3.0)]
    for value in (4.0, 5.0):
        with JsonlSink(path, resume_at=16) as sink:
            assert steps_in(path) == [8, 8, 16, 16]
            sink.log(eval_row(16, value))
            sink.log(train_row(24))
        assert read_rows(path)[2:] == [train_row(16), eval_row(16, value), train_row(24)]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_new_file_never_overwrites(tmp_path: Path) -> None:
    """Starting a new file where one is leaves the old one as it was."""
    path = tmp_path / "metrics.jsonl"
    write_rows(path, 8)
    with pytest.raises(FileExistsError, match="never overwritten"):
        JsonlSink(path)
    assert steps_in(path) == [8]


@settings(max_examples=50, deadline=None)  # files on a busy machine
@given(cut=st.integers(min_value=0))
def test_a_kill_in_the_middle_of_a_write_costs_that_row_only(cut: int) -> None:
    """Wherever a file is cut short, the whole rows before the cut are read and go on."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        write_rows(path, 8, 16, 24)
        content = path.read_bytes()
        cut %= len(content) + 1
        path.write_bytes(content[:cut])
        whole = [step for step, end in zip((8, 16, 24), _line_ends(content), strict=True) if end <= cut]
        assert steps_in(path) == whole
        with JsonlSink(path, resume_at=24) as sink:
            sink.log(train_row(32))
        assert steps_in(path) == [*whole, 32]


def _line_ends(content: bytes) -> list[int]:
    """Where each object ends; its newline is not needed to read it."""
    return [index for index, byte in enumerate(content) if byte == ord("\n")]


ROW = '{"kind": "train", "env_steps": 8}\n'


@pytest.mark.parametrize("rest", ["", ROW], ids=["last", "in the middle"])
@pytest.mark.parametrize(
    "line", ["hello", "[]", '{"kind": "train"}', '{"env_steps": 8}', '{"kind": 1, "env_steps": "8"}']
)
def test_a_foreign_file_is_named(tmp_path: Path, line: str, rest: str) -> None:
    """A whole line that is not a row is an error with its file and number, and nothing is dropped."""
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{ROW}{line}\n{rest}")
    for act in (lambda: read_rows(path), lambda: JsonlSink(path, resume_at=8)):
        with pytest.raises(MetricsError, match=r"metrics\.jsonl, line 2: .* remove that line") as caught:
            act()
        assert "\n" not in str(caught.value)
    assert path.read_text() == f"{ROW}{line}\n{rest}"


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    """A row that the disk takes only in part, or not at all, raises an error that names the file; the run can go on."""
    path = tmp_path / "metrics.jsonl"
    write_rows(path, 8)
    for room in (20, 0):
        with JsonlSink(path, resume_at=8) as sink, file_limit(path.stat().st_size + room):
            for _ in range(2):
                with pytest.raises(OSError, match=r"metrics\.jsonl") as caught:
                    sink.log(train_row(16))
            assert caught.value.filename == str(path)
    with JsonlSink(path, resume_at=8) as sink:
        sink.log(train_row(16))
    assert steps_in(path) == [8, 16]


class Recorder(Sink):
    """Notes what it is told."""

    def __init__(self, *, broken: bool = False) -> None:
        self.told: list[Any] = []
        self._broken = broken

    def log(self, row: Any) -> None:
        self.told.append(row["env_steps"])

    def close(self) -> None:
        self.told.append("closed")
        if self._broken:
            raise OSError("disk full")


def test_metrics_tells_every_sink() -> None:
    """A composite passes everything to each sink; a sink ignores what it does not care for."""
    first, second = Recorder(), Recorder()
    with Metrics([first, Sink(), second]) as metrics:
        metrics.log(train_row(8))
        metrics.progress(9)
        metrics.video(Path("a.mp4"), 9)
        metrics.artifact(Path("a.pt"), 9)
    assert first.told == second.told == [8, "closed"]


def test_every_sink_is_closed() -> None:
    """One sink that fails to close does not keep the others open."""
    first, second = Recorder(broken=True), Recorder(broken=True)
    with pytest.raises(OSError, match="disk full"):
        Metrics([first, second]).close()
    assert first.told == second.told == ["closed"]
