"""Laws of the console: it never breaks, and says what there is to say."""

import io
import logging
from typing import Any

import pytest
from rich.console import Console

from tdmpc.console import ConsoleSink
from tests.tdmpc.conftest import train_row


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


def test_the_time_left_is_told_once_it_is_known(caplog: pytest.LogCaptureFixture) -> None:
    """Quick steps before a run learns say nothing of the time left; some seconds of learning do."""
    caplog.set_level(logging.INFO, logger="tdmpc")
    clock = Clock()
    sink = plain_console(2000, clock, interval_s=0, learns_from=1000)
    for step in range(100, 1001, 100):
        clock.now += 1
        sink.progress(step)
    for step in range(1010, 1101, 10):
        clock.now += 1
        sink.progress(step)
    assert all(line.endswith("ETA -") for line in caplog.messages[:14])
    assert caplog.messages[-1].endswith("10 decisions/s  ETA 1:30")


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
