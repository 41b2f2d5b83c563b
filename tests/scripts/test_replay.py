"""Laws of ``tdmpc replay`` on a real bundle: its graphs decide again bit for bit, whenever they were to plan."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tdmpc.deploy import Controller, bundle
from tdmpc.scripts.main import main

WAYS: dict[str, dict[str, Any]] = {
    "at once": {},
    "to a deadline": {"deadline_ms": 1000},
    "pipelined": {"pipelined": True},
}


@pytest.fixture(scope="module")
def delayed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run as a bundle for a delay of one decision."""
    from tests.tdmpc.conftest import registered

    folder = tmp_path_factory.mktemp("bundles") / "delayed"
    with registered():
        assert main(["export", str(trained), f"--out={folder}", "--delay=1"]) == 0
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_a_replay_of_a_real_bundle(delayed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str) -> None:
    """What a controller decided comes out again bit for bit, and a table of it can be written."""
    flight, sensors = tmp_path / "flight.mcap", bundle.read(delayed).sensors
    controller = Controller.load(delayed, record=flight, **WAYS[way])
    random = np.random.default_rng(0)
    for _ in range(12):
        controller.act({sensor.name: random.normal(size=sensor.shape) for sensor in sensors})
        controller._plan_runner.is_free(float("inf"))
    controller.close()
    table = tmp_path / "flight.npz"
    assert main(["replay", str(flight), f"--bundle={delayed}", f"--table={table}"]) == 0
    assert capsys.readouterr().out.count(" compared, 0 differ\n") == 2
    with np.load(table) as columns:
        assert columns["action"].shape == (12, 1) and set(columns) >= {"time", "episode", sensors[0].name}


def test_another_bundle_is_one_line(delayed: Path, exported: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    """A record is held against the bundle that decided, and no other."""
    flight = tmp_path / "flight.mcap"
    controller = Controller.load(delayed, record=flight)
    controller.act(np.zeros(2))
    controller.close()
    assert "was recorded with another bundle" in fails("replay", str(flight), f"--bundle={exported}")
