"""A run on the console: a progress bar, or lines."""

import logging
import math
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TextColumn

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
        self._total, self._env_steps = total_env_steps, start_env_steps
        self._action_repeat, self._learns_from = action_repeat, learns_from
        self._interval_s = interval_s
        self._clock = clock
        self._tick_at = self._line_at = -math.inf
        self._closed = False
        self._return: Value = None
        console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} steps"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:.0f} %"),
            TextColumn("{task.fields[report]}"),
            console=console,
            auto_refresh=False,
            expand=True,
            get_time=clock,
            disable=not console.is_terminal or console.is_dumb_terminal,
        )
        self._bar.add_task("", total=total_env_steps, completed=start_env_steps, report="")
        self._bar.start()

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
        self._show()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._line_at = -math.inf  # the last line is due
        self._show()
        if not self._bar.disable:
            self._bar.stop()

    def _show(self) -> None:
        (task,) = self._bar.tasks
        if task.completed < self._learns_from <= self._env_steps:
            self._bar.reset(task.id, completed=self._env_steps)
        self._bar.update(task.id, completed=self._env_steps)
        report = "  ".join((f"return {_number(self._return)}", *self._pace(task)))
        self._bar.update(task.id, report=report, refresh=True)
        if self._bar.disable and self._clock() >= self._line_at:
            self._line_at = self._clock() + self._interval_s
            share = self._env_steps / max(self._total, 1)
            logger.info("%s", f"{self._env_steps:,} of {self._total:,} steps ({share:.0%})  {report}")

    def _pace(self, task: Task) -> tuple[str, str]:
        """Decisions a second over the last half minute, and what time is left."""
        if not task.speed:
            return "- decisions/s", "ETA -"
        decisions = f"{task.speed / self._action_repeat:.3g} decisions/s"
        if (task.elapsed or 0.0) < KNOWN_AFTER_S or self._env_steps < self._learns_from:
            return decisions, "ETA -"
        minutes, seconds = divmod(round(max(self._total - self._env_steps, 0) / task.speed), 60)
        hours, minutes = divmod(minutes, 60)
        return decisions, f"ETA {hours}:{minutes:02}:{seconds:02}" if hours else f"ETA {minutes}:{seconds:02}"


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
