"""Laws of the pictures that compare models."""

import numpy as np
import pandas as pd

from tdmpc.scripts.report.comparison import gallery, tradeoff
from tests.scripts.report.test_pruning import drawn, texts


def test_methods_are_told_apart() -> None:
    """Each method of a comparison has a line of its own colour, marker or stroke, and a bar over its seeds."""
    names = ["dense", "scratch", *(f"criterion {number}" for number in range(9))]
    table = [
        {"method": name, "target": target, "seed": seed, "parameters_left": 1 - target, "psnr": 20.0 + seed}
        for name in names
        for target in ([0.0] if name == "dense" else [0.5, 0.9])
        for seed in (0, 1)
    ]
    figure = tradeoff(pd.DataFrame(table), dense="dense", scratch="scratch")
    drawn(figure)
    lines = [container.lines[0] for container in figure.axes[0].containers]
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}
    assert len(lines) == len(looks) == 10
    assert all(name in texts(figure) for name in names)


def test_pictures_stand_in_labelled_rows() -> None:
    """A gallery has a labelled row for each entry, and a place for each of its pictures."""
    figure = gallery({"pictures": np.zeros((3, 4)), "small": np.ones((3, 4))}, side=2)
    drawn(figure)
    assert len(figure.axes) == 6
    assert [axes.get_ylabel() for axes in figure.axes[::3]] == ["pictures", "small"]
