"""Laws of what is recorded beside every time: it is the machine as it was."""

import os

import numpy as np
import pytest

from tdmpc import machine
from tdmpc.machine import Before


@pytest.mark.parametrize(("policy", "told"), [(os.SCHED_FIFO, 50), (os.SCHED_OTHER, None)])
def test_a_priority_is_recorded(monkeypatch: pytest.MonkeyPatch, policy: int, told: int | None) -> None:
    """The real-time priority in force stands beside the times; an ordinary process has none."""
    monkeypatch.setattr(os, "sched_getscheduler", lambda _: policy)
    monkeypatch.setattr(os, "sched_getparam", lambda _: os.sched_param(50))
    assert machine.facts(Before(load=0.0, stolen_s=None))["priority"] == told


def test_what_a_hypervisor_took_is_the_difference() -> None:
    """Stolen time is that of the measurement alone, and unknown where it was not counted before."""
    assert machine.facts(Before(load=0.0, stolen_s=None))["stolen_ms"] is None
    now = machine.stolen_s()
    if now is not None:
        assert machine.facts(Before(load=0.0, stolen_s=now - 2.0))["stolen_ms"] >= 2000


def test_the_machine_is_named() -> None:
    """Processor, cores, affinity, load, memory and versions are recorded as the machine has them."""
    facts = machine.facts(Before(load=0.5, stolen_s=0.0))
    assert facts["load_before"] == 0.5 and facts["load_after"] >= 0 and facts["peak_rss_bytes"] > 1e6
    assert facts["cores"] == len(facts["affinity"]) > 0 and facts["processor"]
    assert facts["versions"]["numpy"] == np.__version__
