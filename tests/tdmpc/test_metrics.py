"""Laws of the sinks: files tell the truth and survive a kill, the console never breaks, W&B never stops a run."""

import io
import json
import logging
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from tdmpc.metrics import ConsoleSink, JsonlSink, Metrics, Sink, WandbSink, read_rows


def train_row(env_steps: int, **values: Any) -> dict[str, Any]:
    return {"kind": "train", "env_steps": env_steps, "return": env_steps / 10, "loss/value": 0.5} | values


def write_rows(path: Path, *env_steps: int) -> None:
    with JsonlSink(path) as sink:
        for step in env_steps:
            sink.log(train_row(step))


def steps_in(path: Path) -> list[Any]:
    return [row["env_steps"] for row in read_rows(path)]


# ---------------------------------------------------------------------------------------------- JSON lines


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


@pytest.mark.parametrize("rest", ["", '{"env_steps": 16}\n'], ids=["last", "in the middle"])
def test_a_foreign_file_is_named(tmp_path: Path, rest: str) -> None:
    """A whole line that is not a row is an error with its file and number, and nothing is dropped."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"env_steps": 8}\nhello\n' + rest)
    for act in (lambda: read_rows(path), lambda: JsonlSink(path, resume_at=8)):
        with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
            act()
    assert "hello" in path.read_text()


def test_a_full_disk_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A row that the disk takes only in part raises."""
    with JsonlSink(tmp_path / "metrics.jsonl") as sink, monkeypatch.context() as patch:
        patch.setattr(sink, "_file", SimpleNamespace(write=lambda line: len(line) - 1, name="metrics.jsonl"))
        with pytest.raises(OSError, match="only in part"):
            sink.log(train_row(8))


# ------------------------------------------------------------------------------------------------ composite


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


# -------------------------------------------------------------------------------------------------- console


class Clock:
    """Time that stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def plain_console(total: int, clock: Clock, **options: Any) -> ConsoleSink:
    return ConsoleSink(total, console=Console(file=io.StringIO(), force_terminal=False), clock=clock, **options)


def test_plain_lines(caplog: pytest.LogCaptureFixture) -> None:
    """Without a terminal a log line says how far the run is, the return, decisions a second and what time is left."""
    caplog.set_level(logging.INFO, logger="tdmpc")
    clock = Clock()
    sink = plain_console(8000, clock, action_repeat=8, interval_s=0)
    for step in range(80, 1601, 80):  # 10 decisions of 8 steps each second
        clock.now += 1
        sink.progress(step)
        sink.log(train_row(step))
    assert caplog.messages[-1] == "1,600 of 8,000 steps (20%)  return 160  10 decisions/s  ETA 1:20"


def test_plain_lines_are_limited_in_rate(caplog: pytest.LogCaptureFixture) -> None:
    """However fast the rows come, there is at most one line for each interval; evaluations are always shown."""
    caplog.set_level(logging.INFO, logger="tdmpc")
    clock = Clock()
    sink = plain_console(10_000, clock, interval_s=10)
    for step in range(1, 1001):
        clock.now += 0.02
        sink.log(train_row(step))
        sink.progress(step)
    assert len(caplog.messages) == 2
    sink.log({"kind": "eval", "env_steps": 1000, "return_mean": 812.25, "return_std": 9.0, "episodes": 5})
    assert caplog.messages[-1] == "eval at 1,000 steps: return 812 ± 9 over 5 episodes"
    sink.close()
    sink.close()
    assert caplog.messages[3:] == ["1,000 of 10,000 steps (10%)  return 100  50 decisions/s  ETA 3:00"]


def test_any_kind_of_row_has_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """A row of a kind that the console has never heard of is shown key by key."""
    caplog.set_level(logging.INFO, logger="tdmpc")
    plain_console(100, Clock()).log({"kind": "prune", "env_steps": 50, "sparsity": 0.5, "guard": "kept", "bad": None})
    assert caplog.messages == ["prune at 50 steps: sparsity 0.5, guard kept, bad -"]


def test_progress_bar() -> None:
    """On a terminal the bar shows steps, return, decisions a second and ETA, also resumed, and closes twice."""
    clock, screen = Clock(), io.StringIO()
    sink = ConsoleSink(
        1000,
        start_env_steps=500,
        console=Console(file=screen, force_terminal=True, width=120, color_system=None),
        clock=clock,
    )
    for step in range(500, 1001, 10):
        clock.now += 1
        sink.progress(step)
    sink.log(train_row(1000))
    sink.close()
    sink.close()
    last = screen.getvalue().splitlines()[-2]
    for text in ("1,000/1,000 steps", "100 %", "return 100", "10 decisions/s", "ETA 0:00"):
        assert text in last


def test_the_bar_is_drawn_twice_a_second_at_most() -> None:
    """Progress is told every step and costs nothing but a look at the clock in between."""
    clock, screen = Clock(), io.StringIO()
    sink = ConsoleSink(
        10_000, console=Console(file=screen, force_terminal=True, width=120, color_system=None), clock=clock
    )
    for step in range(1, 10_001):
        clock.now += 1e-4
        sink.progress(step)
    assert screen.getvalue().count("steps") <= 4  # start, 0 s, 0.5 s, 1 s
    sink.close()


# ----------------------------------------------------------------------------------------- Weights & Biases


@pytest.fixture(scope="module")
def offline_wandb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """W&B silent, without a network, and with its caches away from the home folder."""
    home = tmp_path_factory.mktemp("wandb-home")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT"):
            patch.setenv(f"WANDB_{name}_DIR", str(home))
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("WANDB_MODE", "offline")
        yield
        import wandb

        wandb.teardown()


def open_wandb(run_dir: Path, **options: Any) -> WandbSink:
    config = {"env": "cartpole-swingup", "model": {"latent": 50, "encoder": (256,)}}
    return WandbSink("offline", config=config, run_dir=run_dir, **options)


def read_records(path: Path) -> list[Any]:
    """The protobuf records of an offline run: a LevelDB log, 32 KiB blocks of (crc, length, type, bytes)."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

    data, records, partial, position = path.read_bytes(), [], b"", 7
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:  # too little left in the block for a header
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        partial += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole record, or its last part
            records.append(Record.FromString(partial))
            partial = b""
    return records


def logs_of(run_dir: Path) -> list[list[Any]]:
    """The records of each part of a run, in the order of their start."""
    logs = [_finished(path) for path in run_dir.glob("wandb/offline-run-*/*.wandb")]
    return sorted(logs, key=lambda log: run_of(log).start_time.ToNanoseconds())


def _finished(path: Path) -> list[Any]:
    """All records: wandb's own process writes the last ones just after ``finish()`` returns."""
    for _ in range(500):
        records = read_records(path)
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.02)
    raise AssertionError(f"{path} is incomplete")


def run_of(records: list[Any]) -> Any:
    return next(record.run for record in records if record.WhichOneof("record_type") == "run")


def history_of(records: list[Any]) -> list[dict[str, Any]]:
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]


def test_an_offline_run_reads_back(offline_wandb: None, tmp_path: Path) -> None:
    """An offline run holds the config, group and tags, every row under grouped keys, the video and the checkpoint,
    and names environment steps as the x-axis of all charts.
    """
    video, checkpoint = tmp_path / "eval.mp4", tmp_path / "checkpoint.pt"
    video.write_bytes(b"mp4")
    checkpoint.write_bytes(b"weights")
    with Metrics([open_wandb(tmp_path, name="demo", group="cartpole", tags=["a", "b"])]) as metrics:
        metrics.log(train_row(8, broken=float("nan")))
        metrics.log({"kind": "eval", "env_steps": 8, "return_mean": 812.5})
        metrics.log(train_row(16))
        metrics.video(video, 16)
        metrics.artifact(checkpoint, 16)
    (records,) = logs_of(tmp_path)

    run = run_of(records)
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["env"] == "cartpole-swingup" and config["model"] == {"latent": 50, "encoder": [256]}
    assert (run.project, run.display_name, run.run_group, list(run.tags)) == ("tdmpc", "demo", "cartpole", ["a", "b"])

    history = [{key: value for key, value in row.items() if not key.startswith("_")} for row in history_of(records)]
    assert history[:3] == [
        {"env_steps": 8, "train/return": 0.8, "loss/value": 0.5},
        {"env_steps": 8, "eval/return_mean": 812.5},
        {"env_steps": 16, "train/return": 1.6, "loss/value": 0.5},
    ]
    assert history[3]["env_steps"] == 16 and history[3]["eval/video/_type"] == "video-file"
    (logged,) = tmp_path.glob(f"wandb/offline-run-*/files/{history[3]['eval/video/path']}")
    assert logged.read_bytes() == b"mp4"

    metrics_defined = [record.metric for record in records if record.WhichOneof("record_type") == "metric"]
    assert [(m.name or m.glob_name, m.step_metric) for m in metrics_defined] == [("env_steps", ""), ("*", "env_steps")]
    (artifact,) = [record.artifact for record in records if record.WhichOneof("record_type") == "artifact"]
    assert (artifact.type, artifact.name) == ("model", f"checkpoint-{run.run_id}")
    assert "step-16" in artifact.aliases and json.loads(artifact.metadata) == {"env_steps": 16}


def test_an_offline_run_has_pictures(offline_wandb: None, tmp_path: Path) -> None:
    """A picture is logged under its name at its step, as the file that it is."""
    picture = tmp_path / "widths.png"
    Image.new("RGB", (3, 2)).save(picture)
    with Metrics([open_wandb(tmp_path)]) as metrics:
        metrics.image("report/widths", picture, 16)
    ((row,),) = [history_of(records) for records in logs_of(tmp_path)]
    assert (row["env_steps"], row["report/widths/width"], row["report/widths/height"]) == (16, 3, 2)
    (logged,) = tmp_path.glob(f"wandb/offline-run-*/files/{row['report/widths/path']}")
    assert logged.read_bytes() == picture.read_bytes()


def test_a_resumed_run_keeps_its_id(offline_wandb: None, tmp_path: Path) -> None:
    """The id is made once for a run folder; each part says that it resumes, so that syncing joins them."""
    for step in (8, 16):
        with open_wandb(tmp_path) as sink:
            sink.log(train_row(step))
    first, second = logs_of(tmp_path)
    assert run_of(first).run_id == run_of(second).run_id == (tmp_path / "wandb_id").read_text()
    assert run_of(first).resume and run_of(second).resume
    assert [row["env_steps"] for row in history_of(first) + history_of(second)] == [8, 16]


def test_a_failing_wandb_is_one_warning(
    offline_wandb: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When W&B raises, the caller hears one warning and no exception, and W&B is left alone from then on."""
    calls = []

    def fail(*_: Any, **__: Any) -> None:
        calls.append(1)
        raise RuntimeError("server on fire")

    sink = open_wandb(tmp_path)
    run = sink._run
    monkeypatch.setattr(run, "log", fail)
    for step in (8, 16):
        sink.log(train_row(step))
        sink.video(tmp_path / "none.mp4", step)
        sink.artifact(tmp_path / "none.pt", step)
    sink.close()
    run.finish()
    assert len(calls) == 1
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "W&B could not log, the run goes on without it: RuntimeError: server on fire"
    ]


def test_a_wandb_that_cannot_start_is_one_warning(
    offline_wandb: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A W&B that fails to start (no login, no network) does not keep the run from starting."""

    def fail(**_: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("wandb.init", fail)
    with open_wandb(tmp_path) as sink:
        sink.log(train_row(8))
    assert caplog.messages == ["W&B could not start, the run goes on without it: ConnectionError: no network"]


def test_missing_wandb_names_the_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for without being installed, W&B is an error at the start that names the pip line."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"--wandb offline .* pip install 'tdmpc\[train\]'"):
        open_wandb(tmp_path)


def test_disabled_wandb_is_never_imported(tmp_path: Path) -> None:
    """Disabled, W&B is neither imported nor written about, and its sink takes everything."""
    program = f"""
import sys
from pathlib import Path
from tdmpc.metrics import Metrics, WandbSink
with Metrics([WandbSink("disabled", config={{}}, run_dir={str(tmp_path)!r})]) as metrics:
    metrics.log({{"kind": "train", "env_steps": 1}})
    metrics.video(Path("none.mp4"), 1)
    metrics.artifact(Path("none.pt"), 1)
assert not {{"wandb", "matplotlib", "torch"}} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert not list(tmp_path.iterdir())
