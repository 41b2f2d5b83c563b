"""A run on the console: a progress bar, or lines."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from tdmpc.metrics import Row, Sink, Value

logger = logging.getLogger(__name__)

KNOWN_AFTER_S = 5.0
"""How long a run has to learn before its pace says when it ends."""


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
        learns_from: int = 0,
        console: Console | None = None,
        interval_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start counting.

        Args:
            total_env_steps: environment steps of the whole run.
            start_env_steps: where a resumed run goes on.
            action_repeat: environment steps for each decision, to tell decisions a second.
            learns_from: environment steps before it learns. They are quicker than the others, so they say nothing of
                the time that is left.
            console: rich console to draw on; standard error when not given.
            interval_s: seconds between two plain lines, at least.
            clock: seconds, monotonic.
        """
        self._total = total_env_steps
        self._env_steps = start_env_steps
        self._pace = _Pace(action_repeat, learns_from)
        self._interval_s = interval_s
        self._clock = clock
        self._tick_at = self._line_at = -math.inf
        self._closed = False
        self._return: Value = None
        self._bar = _start_bar(console or Console(stderr=True), total_env_steps, start_env_steps)
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

    def __init__(self, action_repeat: int, learns_from: int, window_s: float = 30.0) -> None:
        self._action_repeat = action_repeat
        self._learns_from = learns_from
        self._window_s = window_s
        self._ticks: deque[tuple[float, int]] = deque()

    def tick(self, now: float, env_steps: int) -> None:
        if self._ticks and self._ticks[0][1] < self._learns_from <= env_steps:
            self._ticks.clear()
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
        if not rate or self._ticks[-1][0] - self._ticks[0][0] < KNOWN_AFTER_S or self._ticks[0][1] < self._learns_from:
            return "-"
        minutes, seconds = divmod(round(remaining / rate), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _start_bar(console: Console, total: int, start: int) -> tuple[Progress, TaskID] | None:
    """A bar without a refresh thread, or None where there is no terminal to draw it on."""
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
