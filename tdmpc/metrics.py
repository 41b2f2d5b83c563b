"""Where a run's numbers go: a JSON-lines file, and other sinks (``console``, ``wandb_sink``).

A row is one flat dictionary; it always has ``env_steps`` (environment steps, action repeat
included) and ``kind`` ("train", "eval", ...). Local files are the truth and fail loudly;
W&B is a courtesy and never stops a run.
"""

import contextlib
import errno
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Value = float | int | str | None
"""``None`` stands for a number that was not finite."""
Row = Mapping[str, Value]


class Sink:
    """Takes what a run reports; a sink overrides what it cares for, the rest does nothing."""

    def log(self, row: Row) -> None:
        """Take one row of numbers."""

    def progress(self, env_steps: int) -> None:
        """Hear how far the run is; called every step, so it has to be cheap."""

    def video(self, path: Path, env_steps: int) -> None:
        """Take a video file."""

    def image(self, name: str, path: Path, env_steps: int) -> None:
        """Take a picture."""

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], env_steps: int) -> None:
        """Take a table, whole each time."""

    def histogram(self, name: str, values: Sequence[float], env_steps: int) -> None:
        """Take numbers whose distribution is of interest."""

    def artifact(self, path: Path, env_steps: int) -> None:
        """Take a checkpoint, a file or a folder."""

    def close(self) -> None:
        """Finish what is under way; calling it again does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Metrics(Sink):
    """Several sinks as one, told in the order given."""

    def __init__(self, sinks: Iterable[Sink] = ()) -> None:
        self._sinks = tuple(sinks)

    def log(self, row: Row) -> None:
        row = _plain(row)
        for sink in self._sinks:
            sink.log(row)

    def progress(self, env_steps: int) -> None:
        for sink in self._sinks:
            sink.progress(env_steps)

    def video(self, path: Path, env_steps: int) -> None:
        for sink in self._sinks:
            sink.video(path, env_steps)

    def image(self, name: str, path: Path, env_steps: int) -> None:
        for sink in self._sinks:
            sink.image(name, path, env_steps)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], env_steps: int) -> None:
        for sink in self._sinks:
            sink.table(name, rows, env_steps)

    def histogram(self, name: str, values: Sequence[float], env_steps: int) -> None:
        for sink in self._sinks:
            sink.histogram(name, values, env_steps)

    def artifact(self, path: Path, env_steps: int) -> None:
        for sink in self._sinks:
            sink.artifact(path, env_steps)

    def close(self) -> None:
        with contextlib.ExitStack() as stack:  # closes every sink, also when one of them raises
            for sink in reversed(self._sinks):
                stack.callback(sink.close)


def _plain(row: Row) -> dict[str, Value]:
    """The row in python scalars, checked; numpy and torch scalars are taken, non-finite numbers become None."""
    plain: dict[str, Value] = {}
    for key, value in row.items():
        item: Any = getattr(value, "item", lambda value=value: value)()
        if not isinstance(item, float | int | str | None):
            raise TypeError(f"row: {key!r} has to be a number or a string, got {type(item).__name__}")
        plain[key] = None if isinstance(item, float) and not math.isfinite(item) else item
    if not isinstance(plain.get("env_steps"), int) or not isinstance(plain.get("kind"), str):
        raise TypeError(f"row: needs 'env_steps' (int) and 'kind' (str), got {dict(row)}")
    return plain


class JsonlSink(Sink):
    """One JSON object a line, on the disk as soon as it is logged."""

    def __init__(self, path: str | Path, *, resume_at: int | None = None) -> None:
        """Start a new file, or go on with one.

        Args:
            path: the file.
            resume_at: ``None`` for a new file, which must not exist yet; otherwise the environment
                step of the checkpoint that the run goes on from: later rows are dropped.
        """
        path = Path(path)
        if resume_at is not None and path.exists():
            _drop_rows_after(path, resume_at)
        try:
            self._file = path.open("xb" if resume_at is None else "ab", buffering=0)
        except FileExistsError:
            raise FileExistsError(f"{path} exists already; metrics are resumed, never overwritten") from None

    def log(self, row: Row) -> None:
        line = json.dumps(_plain(row), allow_nan=False).encode() + b"\n"
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, "metrics row written only in part", self._file.name)

    def close(self) -> None:
        self._file.close()


def read_rows(path: str | Path) -> list[dict[str, Value]]:
    """All rows of a metrics file; a last line cut short by a kill is left out."""
    return [row for _, row in _lines(Path(path))]


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Value]]]:
    """Each whole line with the row on it; a line cut short has no newline."""
    content = path.read_bytes()
    lines = content.splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or "env_steps" not in row:
                raise ValueError("a row with 'env_steps' was expected")
        except ValueError as error:  # includes JSON and unicode errors
            if number == len(lines) and not content.endswith(b"\n"):
                return
            raise ValueError(f"{path}, line {number}: not a metrics row ({error})") from error
        yield line, row


def _drop_rows_after(path: Path, env_steps: int) -> None:
    kept = [line + b"\n" for line, row in _lines(path) if int(row["env_steps"] or 0) <= env_steps]
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
