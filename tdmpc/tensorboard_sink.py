"""A run as event files for TensorBoard, over environment steps: ``tensorboard --logdir runs``."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imread

from tdmpc.metrics import Row, Sink, grouped

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError as error:
    raise ImportError("--track tensorboard needs TensorBoard: pip install 'tdmpc[tensorboard]'") from error


class TensorBoardSink(Sink):
    """Numbers, pictures and distributions; films and checkpoints stay in the run folder."""

    def __init__(self, folder: Path, *, config: Mapping[str, Any], resume_at: int) -> None:
        """Write event files.

        Args:
            folder: for the files; those of the same run's earlier parts are there.
            config: what the run was started with.
            resume_at: environment step from which the run goes on: TensorBoard drops what came later.
        """
        self._writer = SummaryWriter(str(folder), purge_step=resume_at + 1 if resume_at else None)
        self._writer.add_text("settings", f"```\n{json.dumps(config, indent=1)}\n```", resume_at)

    def log(self, row: Row) -> None:
        step = int(row["env_steps"] or 0)
        for name, value in grouped(row).items():
            if not isinstance(value, str):
                self._writer.add_scalar(name, value, step)

    def image(self, name: str, path: Path, env_steps: int) -> None:
        self._writer.add_image(name, imread(path)[..., :3], env_steps, dataformats="HWC")

    def histogram(self, name: str, values: Sequence[float], env_steps: int) -> None:
        self._writer.add_histogram(name, np.array(values), env_steps)

    def close(self) -> None:
        self._writer.close()
