"""Figures of ``tdmpc stability``: all measures against size, phase portraits, regions of attraction."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tdmpc.envs import make_env
from tdmpc.scripts.closed_loop import turned, values
from tdmpc.scripts.report.style import (
    INK,
    KEPT,
    UNDONE,
    Axes,
    entry,
    legend,
    panels,
    save,
    share_axis,
    styled,
    value_axis,
)

if TYPE_CHECKING:
    from tdmpc.scripts.stability import Measured

MEASURES = {
    "return_mean": "return",
    "violations": "decisions without decrease",
    "settled": "starts that settle",
    "latent_error": "error of the latent, in spreads",
    "return_error": "error of the return ahead",
}
"""Columns of the table, in the order of the panels."""
FINE = 41
"""Angles and angular velocities at which contours are computed."""


def draw(found: Sequence["Measured"], folder: Path, *, goal: float) -> list[Path]:
    """Write all figures that there is something for; returns their paths."""
    pictures = [folder / "measures.png"]
    _measures(found, pictures[0])
    if found[0].starts is not None:
        pictures += [folder / "phase.png", folder / "attraction.png"]
        _phase(found, pictures[1])
        _attraction(found, pictures[2], goal)
    return pictures


@styled
def _measures(found: Sequence["Measured"], path: Path) -> None:
    """A panel for each measure, against the multiply-adds that are left."""
    rows = [each.row for each in found]
    shown = [name for name in MEASURES if name in rows[0]]
    figure, drawn = panels(len(shown), columns=3, width=2.6, height=2.1, extra=0.2)
    left = [row["macs_left"] for row in rows]
    for name, axes in zip(shown, drawn, strict=True):
        value = np.array([row[name] for row in rows])
        axes.errorbar(left, value, _ends(rows, name, value), color=KEPT, marker="o", markersize=4, capsize=2)
        axes.set_title(MEASURES[name])
        share_axis(axes, min(*left, 0.9))
        axes.set_xlabel("multiply-adds left")
        value_axis(axes, [row.get(f"{name}_high", row[name]) for row in rows], log=False)
    save(figure, path)


def _ends(rows: Sequence[dict[str, Any]], name: str, value: np.ndarray) -> np.ndarray | None:
    """How far an interval reaches down and up."""
    if name == "return_mean":
        return np.array([[row["return_std"] for row in rows]] * 2)
    if f"{name}_low" not in rows[0]:
        return None
    low, high = (np.array([row[f"{name}_{end}"] for row in rows]) for end in ("low", "high"))
    return np.stack([value - low, high - value])


@styled
def _phase(found: Sequence["Measured"], path: Path) -> None:
    """Contours of V where the cart stands in the middle; states that episodes passed, and those without decrease."""
    figure, drawn = panels(len(found), columns=3, width=3.0, height=2.3)
    angles, rates = np.linspace(-np.pi, np.pi, FINE), np.linspace(-10, 10, FINE)
    for each, axes in zip(found, drawn, strict=True):
        cost = _cost_to_go(each, angles, rates)
        contours = axes.contourf(angles, rates, cost, levels=12, cmap="Greys", alpha=0.7)
        figure.colorbar(contours, ax=axes, label="V", fraction=0.06, pad=0.02)
        alive = each.trace.alive.numpy()
        passed, missed = each.trace.poles[:-1][alive], each.violated[alive]
        axes.plot(*passed[~missed].T, ".", color=KEPT, markersize=1.5)
        axes.plot(*passed[missed].T, "x", color=UNDONE, markersize=4)
        _name_axes(axes, each)
        axes.set_ylim(rates[0], rates[-1])
    marks = [
        entry("V decreases", color=KEPT, marker=".", linestyle="none"),
        entry("it does not", color=UNDONE, marker="x", linestyle="none"),
    ]
    legend(figure, [], marks)
    save(figure, path)


def _cost_to_go(each: "Measured", angles: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """V, in the environment's units, ``Float[rate angle]``."""
    spec = each.agent.spec
    with closing(make_env(spec.id, **spec.options)) as env:
        env.reset(seed=0)
        sensed = np.stack([[turned(env, angle, rate) for angle in angles] for rate in rates])
    return each.ceiling - values(each.agent, torch.from_numpy(sensed)).numpy()


@styled
def _attraction(found: Sequence["Measured"], path: Path, goal: float) -> None:
    """A mark for each start: whether the pole is caught from there and held."""
    figure, drawn = panels(len(found), columns=3, width=2.6, height=2.3)
    for each, axes in zip(found, drawn, strict=True):
        assert each.starts is not None
        axes.plot(*each.starts[each.settled].T, "o", color=KEPT, markersize=4)
        axes.plot(*each.starts[~each.settled].T, "x", color=UNDONE, markersize=5)
        _name_axes(axes, each)
    marks = [
        entry(f"reaches {goal:.0%} of the highest reward and stays", color=KEPT, marker="o", linestyle="none"),
        entry("does not", color=UNDONE, marker="x", linestyle="none"),
    ]
    legend(figure, [], marks)
    save(figure, path)


def _name_axes(axes: Axes, each: "Measured") -> None:
    axes.set_title(f"{each.name}: {each.row['macs_left']:.1%} left", color=INK)
    axes.set(xlabel="angle of the pole, 0 is upright", ylabel="angular velocity")
    axes.set_xticks([-np.pi, 0, np.pi], ["−π", "0", "π"])
