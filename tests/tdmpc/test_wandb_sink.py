"""Laws of Weights & Biases: what was logged can be read, and no failure stops a run."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tdmpc.metrics import Metrics
from tdmpc.wandb_sink import WandbSink
from tests.tdmpc.conftest import train_row
from tests.tdmpc.wandb_files import history_of, logs_of, run_of


def open_wandb(run_dir: Path, **options: Any) -> WandbSink:
    config = {"env": "cartpole-swingup", "model": {"latent": 50, "encoder": (256,)}}
    return WandbSink("offline", config=config, run_dir=run_dir, **options)


def test_an_offline_run_reads_back(offline_wandb: None, tmp_path: Path) -> None:
    """An offline run holds the config, group and tags, every row under grouped keys, the video and the checkpoint,
    and names environment steps as the x-axis of all charts.
    """
    video, checkpoint = tmp_path / "eval.mp4", tmp_path / "checkpoint.pt"
    video.write_bytes(b"mp4")
    checkpoint.write_bytes(b"weights")
    with Metrics([open_wandb(tmp_path, name="demo", group="cartpole", tags=["a", "b"])]) as metrics:
        metrics.log(train_row(8, broken=float("nan")))
        metrics.log({"kind": "eval", "env_steps": 8, "return_mean": 812.5})
        metrics.log(train_row(16))
        metrics.video(video, 16)
        metrics.artifact(checkpoint, 16)
    (records,) = logs_of(tmp_path)

    run = run_of(records)
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["env"] == "cartpole-swingup" and config["model"] == {"latent": 50, "encoder": [256]}
    assert (run.project, run.display_name, run.run_group, list(run.tags)) == ("tdmpc", "demo", "cartpole", ["a", "b"])

    history = [{key: value for key, value in row.items() if not key.startswith("_")} for row in history_of(records)]
    assert history[:3] == [
        {"env_steps": 8, "train/return": 0.8, "loss/value": 0.5},
        {"env_steps": 8, "eval/return_mean": 812.5},
        {"env_steps": 16, "train/return": 1.6, "loss/value": 0.5},
    ]
    assert history[3]["env_steps"] == 16 and history[3]["eval/video/_type"] == "video-file"
    (logged,) = tmp_path.glob(f"wandb/offline-run-*/files/{history[3]['eval/video/path']}")
    assert logged.read_bytes() == b"mp4"

    metrics_defined = [record.metric for record in records if record.WhichOneof("record_type") == "metric"]
    assert [(m.name or m.glob_name, m.step_metric) for m in metrics_defined] == [("env_steps", ""), ("*", "env_steps")]
    (artifact,) = [record.artifact for record in records if record.WhichOneof("record_type") == "artifact"]
    assert (artifact.type, artifact.name) == ("model", f"checkpoint-{run.run_id}")
    assert "step-16" in artifact.aliases and json.loads(artifact.metadata) == {"env_steps": 16}


def test_an_offline_run_has_pictures(offline_wandb: None, tmp_path: Path) -> None:
    """A picture is logged under its name at its step, as the file that it is."""
    picture = tmp_path / "widths.png"
    Image.new("RGB", (3, 2)).save(picture)
    with Metrics([open_wandb(tmp_path)]) as metrics:
        metrics.image("report/widths", picture, 16)
    ((row,),) = [history_of(records) for records in logs_of(tmp_path)]
    assert (row["env_steps"], row["report/widths/width"], row["report/widths/height"]) == (16, 3, 2)
    (logged,) = tmp_path.glob(f"wandb/offline-run-*/files/{row['report/widths/path']}")
    assert logged.read_bytes() == picture.read_bytes()


def test_a_resumed_run_keeps_its_id(offline_wandb: None, tmp_path: Path) -> None:
    """The id is made once for a run folder; each part says that it resumes, so that syncing joins them."""
    for step in (8, 16):
        with open_wandb(tmp_path) as sink:
            sink.log(train_row(step))
    first, second = logs_of(tmp_path)
    assert run_of(first).run_id == run_of(second).run_id == (tmp_path / "wandb_id").read_text()
    assert run_of(first).resume and run_of(second).resume
    assert [row["env_steps"] for row in history_of(first) + history_of(second)] == [8, 16]


def test_a_failing_wandb_is_one_warning(
    offline_wandb: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When W&B raises, the caller hears one warning and no exception, and W&B is left alone from then on."""
    calls = []

    def fail(*_: Any, **__: Any) -> None:
        calls.append(1)
        raise RuntimeError("server on fire")

    sink = open_wandb(tmp_path)
    run = sink._run
    monkeypatch.setattr(run, "log", fail)
    for step in (8, 16):
        sink.log(train_row(step))
        sink.video(tmp_path / "none.mp4", step)
        sink.artifact(tmp_path / "none.pt", step)
    sink.close()
    run.finish()
    assert len(calls) == 1
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "W&B could not log, the run goes on without it: RuntimeError: server on fire"
    ]


def test_a_wandb_that_cannot_start_is_one_warning(
    offline_wandb: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A W&B that fails to start (no login, no network) does not keep the run from starting."""

    def fail(**_: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("wandb.init", fail)
    with open_wandb(tmp_path) as sink:
        sink.log(train_row(8))
    assert caplog.messages == ["W&B could not start, the run goes on without it: ConnectionError: no network"]


def test_missing_wandb_names_the_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for without being installed, W&B is an error at the start that names the pip line."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"--wandb offline .* pip install 'tdmpc\[train\]'"):
        open_wandb(tmp_path)


def test_disabled_wandb_is_never_imported(tmp_path: Path) -> None:
    """Disabled, W&B is neither imported nor written about, and its sink takes everything."""
    program = f"""
import sys
from pathlib import Path
from tdmpc.metrics import Metrics
from tdmpc.wandb_sink import WandbSink
with Metrics([WandbSink("disabled", config={{}}, run_dir={str(tmp_path)!r})]) as metrics:
    metrics.log({{"kind": "train", "env_steps": 1}})
    metrics.video(Path("none.mp4"), 1)
    metrics.artifact(Path("none.pt"), 1)
assert not {{"wandb", "matplotlib", "torch"}} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert not list(tmp_path.iterdir())
