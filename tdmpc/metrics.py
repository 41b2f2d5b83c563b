"""Where a run's numbers go: a JSON-lines file, the console, Weights & Biases.

A row is one flat dictionary; it always has ``env_steps`` (environment steps, action repeat
included) and ``kind`` ("train", "eval", ...). Local files are the truth and fail loudly;
W&B is a courtesy and never stops a run.
"""

import contextlib
import errno
import json
import logging
import math
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

logger = logging.getLogger(__name__)

Value = float | int | str | None
"""``None`` stands for a number that was not finite."""
Row = Mapping[str, Value]
WandbMode = Literal["disabled", "offline", "online"]


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


# ---------------------------------------------------------------------------------------------- JSON lines


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


# ------------------------------------------------------------------------------------------------- console


class ConsoleSink(Sink):
    """A progress bar where there is a terminal, plain log lines where there is none.

    Rows other than training rows (evaluations and the like) are log lines in both cases. For
    these to appear above the bar, log through ``rich.logging.RichHandler(console=console)``.
    """

    def __init__(
        self,
        total_env_steps: int,
        *,
        start_env_steps: int = 0,
        action_repeat: int = 1,
        console: "Console | None" = None,
        interval_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start counting.

        Args:
            total_env_steps: environment steps of the whole run.
            start_env_steps: where a resumed run goes on.
            action_repeat: environment steps for each decision, to tell decisions a second.
            console: rich console to draw on; standard error when not given.
            interval_s: seconds between two plain lines, at least.
            clock: seconds, monotonic.
        """
        self._total = total_env_steps
        self._env_steps = start_env_steps
        self._pace = _Pace(action_repeat)
        self._interval_s = interval_s
        self._clock = clock
        self._tick_at = self._line_at = -math.inf
        self._closed = False
        self._return: Value = None
        self._bar = _start_bar(console, total_env_steps, start_env_steps)
        self._pace.tick(clock(), start_env_steps)

    def log(self, row: Row) -> None:
        self._env_steps = max(self._env_steps, int(row["env_steps"] or 0))
        if row["kind"] == "train":
            self._return = row.get("return")
            self._show()
        else:
            logger.info("%s", _sentence(row))

    def progress(self, env_steps: int) -> None:
        self._env_steps = env_steps
        now = self._clock()
        if now < self._tick_at:
            return
        self._tick_at = now + 0.5
        self._pace.tick(now, env_steps)
        self._show()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._line_at = -math.inf  # the last line is due
        self._show()
        if self._bar:
            self._bar[0].stop()

    def _show(self) -> None:
        remaining = max(self._total - self._env_steps, 0)
        report = f"return {_number(self._return)}", self._pace.decisions(), f"ETA {self._pace.eta(remaining)}"
        if self._bar:
            bar, task = self._bar
            bar.update(task, completed=self._env_steps, report="  ".join(report), refresh=True)
        elif self._clock() >= self._line_at:
            self._line_at = self._clock() + self._interval_s
            share = self._env_steps / max(self._total, 1)
            steps = f"{self._env_steps:,} of {self._total:,} steps ({share:.0%})"
            logger.info("%s", "  ".join((steps, *report)))


class _Pace:
    """Environment steps a second over the last half minute."""

    def __init__(self, action_repeat: int, window_s: float = 30.0) -> None:
        self._action_repeat = action_repeat
        self._window_s = window_s
        self._ticks: deque[tuple[float, int]] = deque()

    def tick(self, now: float, env_steps: int) -> None:
        self._ticks.append((now, env_steps))
        while len(self._ticks) > 2 and now - self._ticks[1][0] >= self._window_s:
            self._ticks.popleft()

    def env_steps_per_s(self) -> float:
        if len(self._ticks) < 2:
            return 0.0
        (then, before), (now, env_steps) = self._ticks[0], self._ticks[-1]
        return (env_steps - before) / max(now - then, 1e-9)

    def decisions(self) -> str:
        rate = self.env_steps_per_s()
        return f"{rate / self._action_repeat:.3g} decisions/s" if rate else "- decisions/s"

    def eta(self, remaining: int) -> str:
        rate = self.env_steps_per_s()
        if not rate:
            return "-"
        minutes, seconds = divmod(round(remaining / rate), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _start_bar(console: "Console | None", total: int, start: int) -> "tuple[Progress, TaskID] | None":
    """A bar without a refresh thread, or None where there is no terminal to draw it on (or no rich)."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
    except ImportError:
        return None
    console = console or Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        return None
    columns = (
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} steps"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:.0f} %"),
        TextColumn("{task.fields[report]}"),
    )
    bar = Progress(*columns, console=console, auto_refresh=False, expand=True)
    task = bar.add_task("", total=total, completed=start, report="")
    bar.start()
    return bar, task


def _sentence(row: Row) -> str:
    """A row for the eye: ``eval at 8,000 steps: return 812 ± 9.31 over 5 episodes``."""
    start = f"{row['kind']} at {row['env_steps']:,} steps: "
    if "return_mean" in row:
        text = f"return {_number(row['return_mean'])}"
        text += f" ± {_number(row['return_std'])}" if row.get("return_std") is not None else ""
        return start + text + (f" over {row['episodes']} episodes" if row.get("episodes") else "")
    return start + ", ".join(f"{key} {_number(row[key])}" for key in row if key not in ("kind", "env_steps"))


def _number(value: Value) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


# ---------------------------------------------------------------------------------------- Weights & Biases


class WandbSink(Sink):
    """Weights & Biases, with environment steps on every chart's x-axis.

    ``disabled`` does nothing and never imports wandb. In the other modes wandb has to be installed;
    whatever else goes wrong with it, now or later, is one warning, and from then on the sink is quiet.
    The id that a resumed run goes on with is kept in the run folder. An offline run that was resumed
    leaves one folder for each part under ``wandb/``, all with this id; ``wandb sync`` joins them.
    """

    def __init__(
        self,
        mode: WandbMode,
        *,
        project: str = "tdmpc",
        config: Mapping[str, Any],
        run_dir: str | Path,
        run_id: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: Iterable[str] = (),
    ) -> None:
        """Start the run, or resume it.

        Args:
            mode: ``disabled``, ``offline`` (files under ``run_dir``, for ``wandb sync``) or ``online``.
            project: W&B project.
            config: what the run was started with; nested dictionaries are fine.
            run_dir: the run folder.
            run_id: W&B run id; when not given the one kept in the run folder, or a new one.
            name: display name.
            group: W&B group, for example the task whose seeds belong together.
            tags: W&B tags.
        """
        self._run: Any = None
        if mode == "disabled":
            return
        try:  # by name: a folder wandb/ in the working directory also imports as an empty package
            from wandb import Artifact, Histogram, Image, Settings, Table, Video, init
        except ImportError as error:
            raise ImportError(f"--wandb {mode} needs Weights & Biases: pip install 'tdmpc[train]'") from error
        self._artifact_type, self._video_type = Artifact, Video
        self._image_type, self._table_type, self._histogram_type = Image, Table, Histogram
        with self._never_raising("start"):
            run = init(
                mode=mode,
                project=project,
                name=name,
                group=group,
                tags=list(tags),
                config=dict(config),
                dir=str(run_dir),
                id=run_id or _kept_run_id(Path(run_dir)),
                resume="allow",
                allow_val_change=True,
                reinit="create_new",
                settings=Settings(**_known(Settings, _WANDB_SETTINGS)),
            )
            run.define_metric("env_steps")
            run.define_metric("*", step_metric="env_steps")
            self._run = run

    def log(self, row: Row) -> None:
        with self._never_raising("log"):
            if self._run:
                self._run.log(_grouped(row))

    def video(self, path: Path, env_steps: int) -> None:
        with self._never_raising("log a video"):
            if self._run:
                self._run.log({"env_steps": env_steps, "eval/video": self._video_type(str(path), format="mp4")})

    def image(self, name: str, path: Path, env_steps: int) -> None:
        with self._never_raising("log a picture"):
            if self._run:
                self._run.log({"env_steps": env_steps, name: self._image_type(str(path))})

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], env_steps: int) -> None:
        with self._never_raising("log a table"):
            if self._run and rows:
                columns: list[Any] = list(dict.fromkeys(column for row in rows for column in row))
                cells = [[row.get(column) for column in columns] for row in rows]
                self._run.log({"env_steps": env_steps, name: self._table_type(columns=columns, data=cells)})

    def histogram(self, name: str, values: Sequence[float], env_steps: int) -> None:
        with self._never_raising("log a histogram"):
            if self._run:
                self._run.log({"env_steps": env_steps, name: self._histogram_type(list(values))})

    def artifact(self, path: Path, env_steps: int) -> None:
        with self._never_raising("log a checkpoint"):
            if self._run:
                artifact = self._artifact_type(
                    f"checkpoint-{self._run.id}", type="model", metadata={"env_steps": env_steps}
                )
                if Path(path).is_dir():
                    artifact.add_dir(str(path))
                else:
                    artifact.add_file(str(path))
                self._run.log_artifact(artifact, aliases=["latest", f"step-{env_steps}"])

    def close(self) -> None:
        run, self._run = self._run, None
        with self._never_raising("finish"):
            if run:
                run.finish()

    @contextlib.contextmanager
    def _never_raising(self, attempt: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a tracker can raise: the run is worth more
            self._run = None
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            logger.warning("W&B could not %s, the run goes on without it: %s", attempt, reason)
            logger.debug("W&B could not %s", attempt, exc_info=True)


_WANDB_SETTINGS = {
    "console": "off",  # the run folder has the log, and wandb would intercept the progress bar
    "init_timeout": 30.0,
    "finish_timeout": 60.0,  # without a network finish() would wait for ever; the data stays on disk
    "x_transaction_log_flush_interval": 1.0,  # what a SIGKILL can cost, in seconds; 15 otherwise
}


def _known(settings: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that this version of wandb has; it refuses unknown ones."""
    return {name: value for name, value in values.items() if name in settings.model_fields}


def _kept_run_id(run_dir: Path) -> str:
    """The id in the run folder, made when there is none."""
    path = run_dir / "wandb_id"
    if not path.exists():
        path.write_text(secrets.token_hex(4))
    return path.read_text().strip()


def _grouped(row: Row) -> dict[str, Value]:
    """Keys as W&B groups charts: ``return`` of a train row is ``train/return``, ``loss/value`` stays."""
    values = {key: value for key, value in row.items() if key not in ("env_steps", "kind") and value is not None}
    return {"env_steps": row["env_steps"]} | {
        key if "/" in key else f"{row['kind']}/{key}": value for key, value in values.items()
    }
