"""Laws of the figure of a latency measurement."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tdmpc.scripts.report.latency import draw
from tests.tdmpc.conftest import file_limit

MEASURED = {"bundle": "bundles/dense", "backend": "onnxruntime", "precision": "float32", "threads": 1}


@pytest.mark.parametrize(
    "mode", [{"mode": "single"}, {"mode": "periodic", "period_ms": 20.0}], ids=["single", "periodic"]
)
def test_a_figure_is_drawn(tmp_path: Path, mode: dict[str, Any]) -> None:
    """The distributions and the return against the 99th percentile become a PNG, also where no return is known."""
    rows = [{**MEASURED, **mode, "p99_ms": 2.0, "return_mean": value} for value in (800.0, None)]
    samples = [np.array([1.0, 2.0] * 100), np.full(200, 4.0)]
    with file_limit(1000), pytest.raises(OSError, match=r"File too large: .*figure\.png"):
        draw(rows, samples, tmp_path / "figure.png")
    assert list(tmp_path.iterdir()) == []
    draw(rows, samples, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
