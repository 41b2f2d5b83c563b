"""Laws of the pictures of pruning."""

from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tdmpc.scripts.report import pruning


def snapshot(step: int, axes: dict[str, tuple[list[list[int]], list[list[float]]]]) -> dict[str, Any]:
    named = {name: {"units": units, "scores": scores} for name, (units, scores) in axes.items()}
    return {"env_steps": step, "updates": step, "criterion": "fisher", "event": 0, "axes": named}


def event(number: int, step: int, *, decision: str = "kept", width: int = 2) -> dict[str, Any]:
    return {
        "event": number,
        "env_steps": step,
        "decision": decision,
        "reason": "" if decision == "kept" else "value worse by 0.40, more than 0.3",
        "axes": {"enc.0": {"before": 3, "after": width}},
        "widths": {"enc.0": width, "latent": 2},
        "losses": {when: {"value": value, "plan_value": 7.0} for when, value in (("before", 0.1), ("after", 0.9))},
        "cost": {budget: {"dense": 100, "before": 100, "after": 60} for budget in ("macs", "parameters")},
    }


WHOLE = ([[0, 1, 2], [0, 1, 2]], [[1.0, 2.0, 3.0], [6.0, 5.0, 4.0]])
CUT = ([[1, 2], [0, 2]], [[5.0, 1.0], [1.0, 3.0]])
LATENT = ([[0, 1]], [[0.5, 0.5]])
SNAPSHOTS = [snapshot(10, {"enc.0": WHOLE, "latent": LATENT}), snapshot(30, {"enc.0": CUT, "latent": LATENT})]
EVENTS = [event(1, 20), event(2, 25, decision="undone")]


def drawn(figure: Figure) -> np.ndarray:
    """The picture as it would be saved: fails on whatever cannot be drawn."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def test_the_mean_is_over_the_units_that_are_there() -> None:
    """An axis' importance is the mean score of its units, of all heads; the last snapshot of a step counts."""
    means = pruning.mean_scores([SNAPSHOTS[0], SNAPSHOTS[0] | {"env_steps": 30}, SNAPSHOTS[1]])
    assert means.to_dict("index") == {"enc.0": {10: 3.5, 30: 2.5}, "latent": {10: 0.5, 30: 0.5}}


def test_ranks_end_where_a_unit_goes() -> None:
    """Each unit has its rank inside its head, those that stay first; one that was removed has none."""
    table = pruning.unit_ranks(SNAPSHOTS, "enc.0")
    assert table.columns.tolist() == [10, 30]
    ranks = table.to_numpy()
    # Stay: unit 1 of head 0 (rank 0.5, then 1), unit 2 of head 0 (1, 0), of head 1 units 0 (1, 0) and 2 (0, 1).
    assert sorted(map(tuple, ranks[:4].tolist())) == [(0.0, 1.0), (0.5, 1.0), (1.0, 0.0), (1.0, 0.0)]
    assert ranks[0].tolist() == [0.5, 1.0]
    assert ranks[4:, 0].tolist() == [0.5, 0.0] and np.isnan(ranks[4:, 1]).all()


@pytest.mark.parametrize(
    ("steps", "edges"), [([10.0, 20.0, 40.0], [5.0, 15.0, 30.0, 50.0]), ([7.0], [6.5, 7.5])], ids=["several", "one"]
)
def test_cells_meet_halfway(steps: list[float], edges: list[float]) -> None:
    """Borders of a heatmap's cells lie halfway between the steps."""
    assert pruning.cell_edges(steps).tolist() == edges


@pytest.mark.parametrize("events", [EVENTS, EVENTS[:1], []], ids=["undone", "kept", "none"])
@pytest.mark.parametrize("snapshots", [SNAPSHOTS, SNAPSHOTS[:1]], ids=["two", "one"])
def test_every_picture_can_be_drawn(snapshots: list[dict[str, Any]], events: list[dict[str, Any]]) -> None:
    """Importance, units and widths are drawn from few records as from many, with and without events."""
    for figure in (
        pruning.importance(snapshots, events, step="updates"),
        pruning.units(snapshots, step="updates"),
        pruning.widths(snapshots, events, last=40, step="updates"),
    ):
        assert len(np.unique(drawn(figure))) > 1
        assert "updates" in texts(figure)


def test_scores_of_zero_leave_a_gap() -> None:
    """A layer whose scores are all zero has no logarithm and is drawn as nothing, without a warning."""
    zeros = ([[0, 1]], [[0.0, 0.0]])
    for other, gaps in ((LATENT, [True, False]), (zeros, [True, True])):
        figure = pruning.importance([snapshot(10, {"enc.0": zeros, "latent": other})], [], step="updates")
        drawn(figure)
        (mesh,) = figure.axes[0].collections[:1]
        assert np.ma.getmaskarray(mesh.get_array()).ravel().tolist() == gaps


def test_marks_tell_what_was_undone() -> None:
    """The legend names undone events only where there are some."""
    assert "undone" in texts(pruning.losses(EVENTS, step="updates"))
    assert "undone" not in texts(pruning.losses(EVENTS[:1], step="updates"))
    drawn(pruning.losses(EVENTS, step="updates"))


def test_losses_that_are_no_numbers_are_left_out() -> None:
    """An event with an infinite loss is drawn beside the others."""
    broken = event(3, 30, decision="undone")
    broken["losses"]["after"]["value"] = float("inf")
    figure = pruning.losses([*EVENTS, broken], step="updates")
    drawn(figure)
    assert all(np.isfinite(axes.get_ylim()).all() for axes in figure.axes)


@pytest.mark.parametrize("left", [1.0, 0.4, 0.02])
def test_the_outcome_is_drawn_at_any_size(left: float) -> None:
    """Return against what is left has an axis in percent from the whole down to the smallest size."""
    rows = [
        {"kind": "train", "env_steps": 10, "return": -3.0, "prune/macs_left": 1.0},
        {"kind": "train", "env_steps": 20, "return": 5.0, "prune/macs_left": left},
        {"kind": "train", "env_steps": 5, "return": 4.0},
        {"kind": "eval", "env_steps": 20, "return_mean": 6.0, "prune/macs_left": left},
    ]
    figure = pruning.outcome(rows, train="return", evaluation="return_mean", label="return", cost="work", step="steps")
    drawn(figure)
    ticks = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert ticks[0] == "100%" and len(ticks) == len(set(ticks))
    assert all(label in texts(figure) for label in ("return", "work left", "evaluation", "steps"))
