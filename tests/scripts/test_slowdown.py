"""Laws of the experiment with slower and slower processors."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tdmpc.scripts.experiments import slowdown
from tdmpc.scripts.experiments.figures import KINDS, write
from tdmpc.scripts.experiments.printed import SLOWDOWN
from tdmpc.scripts.experiments.printed import slowdown as table

PERIOD_MS = 80.0
TIMES_MS = np.linspace(10.0, 20.0, 1001).tolist()


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Bundles that were played, and by what; a bundle is worth what its name says."""
    calls: list[tuple[str, str]] = []

    def real_time(folder: Path, runtime: Any, latency: Any, *, policy: str, episodes: int, seed: int) -> Any:
        calls.append((folder.name, policy))
        return SimpleNamespace(returns=(1.0, 2.0), waiting_returns=(9.0, 9.0), late=1, releases=4)

    described = SimpleNamespace(control_period_ms=PERIOD_MS)
    monkeypatch.setattr(slowdown, "real_time", real_time)
    monkeypatch.setattr(slowdown, "_times", lambda *_: TIMES_MS)
    monkeypatch.setattr(slowdown, "_bundle", lambda work, run, delay: Path(f"{run.name}-{delay}"))
    monkeypatch.setattr(slowdown.bundle, "read", lambda _: described)
    return calls


def run(tmp_path: Path, task: str = "cartpole-swingup") -> Path:
    words = ["--dense", "a-0", "a-1", "--pruned", "b-0", "--slowdowns", "1", "10", f"--work={tmp_path / 'work'}"]
    assert slowdown.main([task, *words, f"--out={tmp_path}"]) == 0
    return tmp_path / SLOWDOWN


def test_a_bundle_is_made_for_its_slowest_plan_in_a_hundred(tmp_path: Path, played: list[tuple[str, str]]) -> None:
    """What plans ahead has the delay within which 99 plans of 100 are ready; the policy, and what is as it is, none."""
    rows = pd.read_csv(run(tmp_path)).set_index(["method", "seed", "slowdown"]).sort_index()
    delays = {method: rows.loc[(method, 0)]["delay"].to_dict() for method in rows.index.unique(0)}
    ahead = {1: 1, 10: 3}  # 19.9 ms, and 199 ms
    assert delays == {
        slowdown.AS_IT_IS: {1: 0, 10: 0},
        slowdown.WAITS: {0: 0},
        slowdown.POLICY: {1: 0, 10: 0},
        slowdown.DENSE: ahead,
        slowdown.PRUNED: ahead,
    }
    assert {name for name, policy in played if policy == "prior"} == {"a-0-0", "a-1-0"}
    assert rows["return_mean"].to_dict()[(slowdown.WAITS, 1, 0)] == 9.0
    assert rows["late"].to_dict()[(slowdown.PRUNED, 0, 10)] == 0.25


def test_rows_of_other_tasks_stay(tmp_path: Path, played: list[tuple[str, str]]) -> None:
    """A task's rows take the place of its own alone."""
    first = pd.read_csv(run(tmp_path))
    run(tmp_path, "walker-walk")
    both = pd.read_csv(run(tmp_path))
    assert both["task"].value_counts().to_dict() == {"cartpole-swingup": len(first), "walker-walk": len(first)}


def test_it_is_a_table_and_a_figure(tmp_path: Path, played: list[tuple[str, str]]) -> None:
    """The table has the mean over seeds and in brackets the delay; the figure is drawn of the same rows."""
    path = run(tmp_path)
    shown = table(path)
    assert "| cartpole-swingup | dense, plans ahead | 2 |  | 2 (1) | 2 (3) |" in shown
    assert "| cartpole-swingup | dense, the simulator waits | 2 | 9 |  |  |" in shown
    write(KINDS["slowdown"], path, (), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
