"""Laws of TensorBoard's files: its own reader finds in them what was logged."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tdmpc.metrics import Metrics
from tdmpc.tensorboard_sink import TensorBoardSink
from tests.tdmpc.conftest import train_row


def written(folder: Path) -> Any:
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_what_is_logged_reads_back(tmp_path: Path) -> None:
    """Numbers stand under grouped names at environment steps, beside settings, pictures and distributions."""
    picture = tmp_path / "widths.png"
    Image.new("RGB", (3, 2)).save(picture)
    with Metrics([TensorBoardSink(tmp_path / "events", config={"env": "Toy-v0"}, resume_at=0)]) as metrics:
        metrics.log(train_row(8, guard="kept", broken=float("nan")))
        metrics.log({"kind": "eval", "env_steps": 8, "return_mean": 812.5, "episodes": 2})
        metrics.image("report/widths", picture, 8)
        metrics.histogram("importance/latent", [0.0, 1.0, 2.0], 8)
    found = written(tmp_path / "events")
    assert set(found.Tags()["scalars"]) == {"train/return", "loss/value", "eval/return_mean", "eval/episodes"}
    assert [(event.step, event.value) for event in found.Scalars("eval/return_mean")] == [(8, 812.5)]
    assert (found.Tags()["images"], found.Tags()["histograms"]) == (["report/widths"], ["importance/latent"])
    assert b"Toy-v0" in found.Tensors("settings/text_summary")[0].tensor_proto.string_val[0]


def test_a_run_that_goes_on_has_one_curve(tmp_path: Path) -> None:
    """What came after the checkpoint from which a run goes on is made again, and stands once."""
    for resume_at, steps in ((0, (8, 16, 24)), (16, (24, 32))):
        with TensorBoardSink(tmp_path, config={}, resume_at=resume_at) as sink:
            for step in steps:
                sink.log(train_row(step))
    assert [event.step for event in written(tmp_path).Scalars("train/return")] == [8, 16, 24, 32]


def test_missing_tensorboard_names_the_install() -> None:
    """Where TensorBoard is not installed, the error names the pip line."""
    program = "import sys; sys.modules['tensorboard'] = None; import tdmpc.tensorboard_sink"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert "--track tensorboard needs TensorBoard: pip install 'tdmpc[tensorboard]'" in found.stderr


@pytest.mark.parametrize("value", [1, 1.0, True])
def test_one_name_has_one_type(value: float) -> None:
    """A number is a float for every tracker, whole or not."""
    from tdmpc.metrics import grouped

    assert {name: type(found) for name, found in grouped({"kind": "train", "env_steps": 1, "a": value}).items()} == {
        "train/a": float
    }
