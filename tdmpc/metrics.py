"""Where a run's numbers go: a JSON-lines file, and other sinks (``console``, ``wandb_sink``).

A row is one flat dictionary; it always has ``env_steps`` (environment steps, action repeat
included) and ``kind`` ("train", "eval", ...). Local files are the truth and fail loudly;
W&B is a courtesy and never stops a run.
"""

import contextlib
import errno
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tdmpc.files import naming, write_whole

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
        """Take a checkpoint."""

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
    if not _is_row(plain):
        raise TypeError(f"row: needs 'env_steps' (int) and 'kind' (str), got {dict(row)}")
    return plain


def grouped(row: Row) -> dict[str, float | str]:
    """The values of a row by chart: ``return`` of a train row is ``train/return``, ``loss/value`` stays.

    One name has one type: numbers are floats, whether or not they are whole.
    """
    values = {key: value for key, value in row.items() if key not in ("env_steps", "kind") and value is not None}
    return {
        key if "/" in key else f"{row['kind']}/{key}": value if isinstance(value, str) else float(value)
        for key, value in values.items()
    }


def _is_row(row: Row) -> bool:
    return isinstance(row.get("env_steps"), int) and isinstance(row.get("kind"), str)


class MetricsError(ValueError):
    """A file of metrics cannot be read; the message says what to do."""


class JsonlSink(Sink):
    """One JSON object a line, on the disk as soon as it is logged.

    An evaluation stands once: one of the same step, which a resumed run makes again, takes its place.
    """

    def __init__(self, path: str | Path, *, resume_at: int | None = None) -> None:
        """Start a new file, or go on with one.

        Args:
            path: the file.
            resume_at: ``None`` for a new file, which must not exist yet; otherwise the environment
                step of the checkpoint that the run goes on from: later rows are dropped.
        """
        self._path = Path(path)
        self._evaluated: Value = None
        if resume_at is not None and self._path.exists():
            self._keep(lambda row: row["env_steps"] <= resume_at)
        try:
            self._file = self._path.open("xb" if resume_at is None else "ab", buffering=0)
        except FileExistsError:
            raise FileExistsError(f"{path} exists already; metrics are resumed, never overwritten") from None

    def log(self, row: Row) -> None:
        row = _plain(row)
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        if row["kind"] == "eval" and row["env_steps"] == self._evaluated:
            self._keep(lambda other: (other["kind"], other["env_steps"]) != ("eval", row["env_steps"]), line)
            self.close()
            self._file = self._path.open("ab", buffering=0)
            return
        with naming(self._path):
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, "a row was written only in part: the disk is full")
        if row["kind"] == "eval":
            self._evaluated = row["env_steps"]

    def _keep(self, condition: Callable[[Mapping[str, Any]], bool], *more: bytes) -> None:
        """Write the file anew with the rows for which a condition holds, and with more lines."""
        kept = [(line, row) for line, row in _lines(self._path) if condition(row)]
        write_whole(self._path, b"".join([*(line + b"\n" for line, _ in kept), *more]))
        self._evaluated = max((row["env_steps"] for _, row in kept if row["kind"] == "eval"), default=None)

    def close(self) -> None:
        self._file.close()


def read_rows(path: str | Path) -> list[dict[str, Value]]:
    """All rows of a metrics file; a last line cut short by a kill is left out."""
    return [row for _, row in _lines(Path(path))]


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each whole line with the row on it; a line cut short has no newline."""
    content = path.read_bytes()
    lines = content.splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not _is_row(row):
                raise ValueError("it needs 'env_steps' and 'kind'")
        except ValueError as error:  # includes JSON and unicode errors
            if number == len(lines) and not content.endswith(b"\n"):
                return
            raise MetricsError(
                f"{path}, line {number}: this is no row of metrics ({error}). Mend or remove that line, and try again"
            ) from error
        yield line, row
