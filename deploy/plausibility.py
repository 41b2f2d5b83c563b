"""Whether recorded readings can be those of the robot that an agent was trained on.

In training, readings change from one decision to the next by a law: a velocity moves its position, an action moves a
velocity. Export learns the law as a quadratic of readings and actions. The log of a robot that is connected rightly
keeps it. One whose sensor is negated, in other units, shifted or exchanged with another breaks it, and keeps it better
once the wrong is undone. So every such wrong is tried on a log, and named where the log without it is explained better.
No threshold asks how well the law fits, for a robot is not its simulation.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from tdmpc.deploy import bundle
from tdmpc.deploy.bundle import Bundle

SCALES = (180 / np.pi, np.pi / 180, 1000.0, 0.001)
"""Factors between units that are mistaken for each other: degrees and radians, and what has a milli before it."""
SHIFTS = (0.5, 1.0, 1.5, 2.0, 3.0)
"""Shifts that are tried, in standard deviations of training's readings."""
CURVED = 48
"""Readings and actions up to which the law is a quadratic, and linear beyond: its size grows with their cube."""
FAR = 10.0
"""Standard deviations beyond which a reading is taken as so far away: a quadratic leads astray there."""
EXPLAINED, WORST = 0.02, 30.0
"""A share of change that is unexplained is told from no smaller one, and no farther than so many times training's."""
GAIN, SHIFT_GAIN = 0.25, 1.0
"""What undoing a wrong must gain, in logarithms of what is unexplained, summed over readings."""
OUTSIDE = 0.5
"""Widths of training's range by which a reading must lie outside to be wrong for that alone."""
MOST = 1_000
"""Transitions of a log that are looked at: more tell little more."""
STEADY = 2.0
"""Standard deviations of a shift that a log should show, or it is told which smaller ones it does."""
Arrays = Mapping[str, np.ndarray]
Kind = Literal["negated", "scaled", "shifted", "exchanged"]


class Wrong(NamedTuple):
    """One way in which a column, or two of them, may be connected wrongly: how it is undone."""

    kind: Kind
    columns: tuple[int, ...]
    amount: float = 0.0
    """Factor, or shift in standard deviations, that undoes it."""


@dataclass(frozen=True)
class Verdict:
    """What a log says of how the robot is connected; columns are readings, then actions."""

    wrong: tuple[tuple[Wrong, float], ...]
    """For each column that is wrong the likeliest way, and what undoing it gains."""
    outside: tuple[int, ...]
    """Columns whose readings lie far outside those of training."""
    undecided: tuple[Wrong, ...]
    """Wrongs that this log would not show: their column hardly moved, or nothing depends on it. Of shifts, for each
    column, the least that it would show."""


def learn(now: np.ndarray, after: np.ndarray, *, ridge: float = 1e-3) -> dict[str, np.ndarray]:
    """The law of change, from transitions of training: all that ``examine`` needs, in single precision.

    Args:
        now: readings and the action, in [-1, 1], that was applied then.
        after: readings one decision later.
        ridge: how much smaller coefficients are preferred.
    """
    middle, spread = np.median(now, 0), now.std(0)
    spread = np.maximum(spread, 1e-6 * max(1.0, spread.max()))
    count, width = after.shape[1], now.shape[1]
    held = np.arange(len(now)) % 5 == min(4, len(now) - 1)  # a fifth, to see what the law leaves unexplained
    z, change = _standardised(now, middle, spread), (after - now[:, :count]) / spread[:count]
    upper = np.triu_indices(width) if width <= CURVED else (np.zeros(0, int), np.zeros(0, int))
    terms = np.concatenate([np.ones((len(z), 1)), z, z[:, upper[0]] * z[:, upper[1]]], 1)[~held]
    gram = terms.T @ terms + ridge * max(len(terms), 1) * np.eye(terms.shape[1])
    bias, linear, products = np.split(np.linalg.solve(gram, terms.T @ change[~held]), [1, 1 + width])
    curved = np.zeros((width, width, count) if width <= CURVED else (0, 0, count))
    curved[upper] = products / 2
    curved += curved.swapaxes(0, 1)  # the diagonal is whole again, the others are halved
    low, high = np.quantile(now, [0.001, 0.999], axis=0)
    law = {"middle": middle, "spread": spread, "bias": bias[0], "linear": linear, "curved": curved, "low": low}
    law = {name: value.astype(np.float32) for name, value in {**law, "high": high}.items()}
    left = _Fit(law, now[held], after[held]).unexplained()
    return {**law, "unexplained": left.astype(np.float32)}


def examine(law: Arrays, now: np.ndarray, after: np.ndarray, sensors: Sequence[tuple[int, ...]] = ()) -> Verdict:
    """Hold transitions of a log, ``MOST`` of them, against the law that ``learn`` found.

    Args:
        law: what ``learn`` found.
        now: readings and actions, as ``learn`` takes them.
        after: readings one decision later.
        sensors: columns that belong together, and may be wrong together.
    """
    chosen = np.linspace(0, len(now) - 1, min(MOST, len(now))).astype(int)
    now, after = now[chosen], after[chosen]
    fit, width = _Fit(law, now, after), now.shape[1]
    as_it_is = fit.score(())
    gains = {wrong: as_it_is - fit.score(fit.undone(wrong)) for wrong in _wrongs(width, after.shape[1], sensors)}
    likeliest: dict[int, tuple[Wrong, float]] = {}
    for wrong, gain in sorted(gains.items(), key=lambda pair: -pair[1]):
        if gain > _needed(wrong) and not any(column in likeliest for column in wrong.columns):
            likeliest |= dict.fromkeys(wrong.columns, (wrong, gain))
    margin = OUTSIDE * (law["high"] - law["low"]) + 1e-3 * np.maximum(np.abs(law["low"]), np.abs(law["high"])) + 1e-6
    low, high = np.quantile(now, [0.02, 0.98], axis=0)
    outside = np.flatnonzero((low < law["low"] - margin) | (high > law["high"] + margin))
    hidden = [wrong for wrong, gain in gains.items() if abs(gain) <= _needed(wrong)]
    undecided = [wrong for wrong in hidden if wrong.kind != "shifted"]
    return Verdict(
        tuple(dict.fromkeys(likeliest.values())), tuple(outside.tolist()), (*undecided, *_least_shifts(hidden))
    )


def _least_shifts(hidden: Sequence[Wrong]) -> Iterator[Wrong]:
    """For whatever hides a shift of up to ``STEADY``: the least one above it, infinite where that is ``STEADY``."""
    farthest: dict[tuple[int, ...], float] = {}
    for wrong in hidden:
        if wrong.kind == "shifted" and abs(wrong.amount) <= STEADY:
            farthest[wrong.columns] = max(abs(wrong.amount), farthest.get(wrong.columns, 0.0))
    for columns, amount in farthest.items():
        yield Wrong("shifted", columns, next((shift for shift in SHIFTS if amount < shift <= STEADY), np.inf))


def write(path: Path, law: Arrays) -> None:
    """Write a law, in numpy's own format."""
    np.savez(path, allow_pickle=False, **law)


def read(described: Bundle) -> Arrays:
    """The law of a bundle's training.

    Raises:
        BundleError: it has none, as bundles of older versions, or it is damaged.
    """
    with np.load(described.file(bundle.LAW), allow_pickle=False) as file:
        return dict(file)


def told(verdict: Verdict, names: Sequence[str], law: Arrays) -> tuple[list[str], list[str]]:
    """What is wrong, and what the log cannot tell, a line for each."""
    lines = [_line(wrong, [repr(names[column]) for column in wrong.columns], law) for wrong, _ in verdict.wrong]
    for column in verdict.outside:
        seen = f"{law['low'][column]:.3g} to {law['high'][column]:.3g}"
        lines.append(f"{names[column]!r} lies far outside of what training saw, {seen}")
    hidden: dict[str, list[str]] = {}
    for wrong in verdict.undecided:
        one, *others = [repr(names[column]) for column in wrong.columns]
        if wrong.kind == "exchanged":
            hidden.setdefault(one, []).append(f"exchanged with {others[0]}")
        else:
            less = f" by less than {_shift(wrong, law)}" if wrong.kind == "shifted" and wrong.amount < np.inf else ""
            hidden.setdefault(" and ".join([one, *others]), []).append(wrong.kind + less)
    return lines, [f"{name}: {', '.join(dict.fromkeys(kinds))}" for name, kinds in hidden.items()]


def _line(wrong: Wrong, names: Sequence[str], law: Arrays) -> str:
    name = " and ".join(names)
    if wrong.kind == "exchanged":
        return f"{name}: exchanged with each other"
    if wrong.kind == "negated":
        return f"{name}: the sign is the opposite of training's"
    if wrong.kind == "shifted":
        return f"{name}: shifted by about {_shift(wrong._replace(amount=-wrong.amount), law)}"
    return f"{name}: about {1 / wrong.amount:.3g} times as large as in training, as in another unit"


def _shift(wrong: Wrong, law: Arrays) -> str:
    """In the columns' own units."""
    return ", ".join(f"{wrong.amount * law['spread'][column]:.3g}" for column in wrong.columns)


def _wrongs(width: int, readings: int, sensors: Sequence[tuple[int, ...]]) -> Iterator[Wrong]:
    for columns in (*((column,) for column in range(width)), *(each for each in sensors if len(each) > 1)):
        yield Wrong("negated", columns, -1.0)
        yield from (Wrong("scaled", columns, factor) for factor in SCALES)
        yield from (Wrong("shifted", columns, sign * shift) for shift in SHIFTS for sign in (-1, 1))
    for pair in (*combinations(range(readings), 2), *combinations(range(readings, width), 2)):
        yield Wrong("exchanged", pair)


def _needed(wrong: Wrong) -> float:
    """A whole sensor is told as hardly as a shift: what is symmetric gains by chance."""
    whole = len(wrong.columns) > 1 and wrong.kind != "exchanged"
    return SHIFT_GAIN if whole or wrong.kind == "shifted" else GAIN


def _standardised(values: np.ndarray, middle: np.ndarray, spread: np.ndarray) -> np.ndarray:
    return np.clip((values - middle) / spread, -FAR, FAR)


class _Fit:
    """How well the law explains transitions, as they are and with some columns changed."""

    def __init__(self, law: Arrays, now: np.ndarray, after: np.ndarray) -> None:
        self._law = {name: value.astype(np.float64) for name, value in law.items()}
        self._now, self._after, self._readings = now, after, after.shape[1]
        self._z = z = _standardised(now, self._law["middle"], self._law["spread"])
        curved = self._law["curved"]
        self._products = np.einsum("ni,ijc->njc", z, curved) if len(curved) else np.zeros((len(z), z.shape[1], 1))
        self._predicted = self._law["bias"] + z @ self._law["linear"] + np.einsum("nj,njc->nc", z, self._products)
        self._change = (after - now[:, : self._readings]) / self._law["spread"][: self._readings]

    def undone(self, wrong: Wrong) -> tuple[tuple[int, np.ndarray, np.ndarray | None], ...]:
        """Changed columns: number, values now, and values after for a reading."""
        if wrong.kind == "exchanged":
            pairs = zip(wrong.columns, reversed(wrong.columns), strict=True)
            return tuple((column, *self._column(other)) for column, other in pairs)
        factor, spreads = (1.0, wrong.amount) if wrong.kind == "shifted" else (wrong.amount, 0.0)
        shift = spreads * self._law["spread"]
        columns = [(column, *self._column(column)) for column in wrong.columns]
        return tuple(
            (column, factor * now + shift[column], None if after is None else factor * after + shift[column])
            for column, now, after in columns
        )

    def unexplained(self, changed: tuple[tuple[int, np.ndarray, np.ndarray | None], ...] = ()) -> np.ndarray:
        """Of each reading the share of its change that the law does not predict, ``Float64[O]``."""
        law, predicted, change, curved = self._law, self._predicted, self._change, self._law["curved"]
        if changed:
            predicted, change = predicted.copy(), change.copy()
        moved: list[tuple[int, np.ndarray]] = []
        for column, now, after in changed:
            spread = law["spread"][column]
            step = (_standardised(now, law["middle"][column], spread) - self._z[:, column])[:, None]
            predicted += step * (law["linear"][column] + 2 * self._products[:, column])
            if len(curved):
                predicted += step**2 * curved[column, column]
                for other, along in moved:
                    predicted += 2 * step * along * curved[column, other]
            moved.append((column, step))
            if after is not None:
                change[:, column] = (after - now) / spread
        error, size = (np.minimum(np.abs(each), 10 * FAR).mean(0) for each in (change - predicted, change))
        return error / np.maximum(size, 1e-9)

    def score(self, changed: tuple[tuple[int, np.ndarray, np.ndarray | None], ...]) -> float:
        """How much worse than in training the law explains the readings."""
        ratio = self.unexplained(changed) / np.maximum(self._law["unexplained"], EXPLAINED)
        return float(np.log(np.clip(ratio, 1.0, WORST)).sum())

    def _column(self, column: int) -> tuple[np.ndarray, np.ndarray | None]:
        return self._now[:, column], self._after[:, column] if column < self._readings else None
