"""Settings of pruning; the command line and its help are made from them."""

from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Literal

from tdmpc.compression.allocation import Limits, Method
from tdmpc.compression.groups import Budget, Groups
from tdmpc.compression.importance import Bound, CriterionName
from tdmpc.compression.schedule import Schedule, Shape

FIRST, LAST = 0.1, 0.4
"""Where pruning starts and ends when that is not said, as shares of the run from the first update on."""
SNAPSHOTS = 50
"""Snapshots of the importance in a run, when their distance is not said."""


class PruneError(ValueError):
    """Pruning cannot be done as asked; the message names the settings and says what is expected."""


@dataclass(frozen=True)
class PruneConfig:
    """Component-aware structured pruning while training."""

    target: float = 0.0
    """Share of the budget that is removed at the end, below 1; 0 prunes nothing."""
    ladder: tuple[float, ...] = ()
    """Several targets, the smallest first, instead of one: when the run is finished, it is pruned to each of them in
    turn and trained on, and each agent is kept as a run of its own."""
    budget: Budget = "macs"
    """What the target counts: ``macs``, the multiply-adds of a plan, or ``parameters``."""
    criterion: CriterionName = "bayesian"
    """How good a unit is. By gradients: bayesian, gradient, fisher, their mean rank ``average``, taylor; by weights:
    l1, l2, pq; or random."""
    allocation: Method = "global"
    """Which layer gives: global, by importance lost for each multiply-add; importance, the same, where important layers
    lose more; uniform, all alike; adaptive, by the sparsity of scores (SAP)."""
    schedule: Shape = "cosine"
    """How the share removed grows between the events."""
    relative: bool = True
    """Ramp the logarithm of what is left, so that late events do not take the largest parts of it; without it, the
    share removed is ramped, as arXiv 1710.01878 has it."""
    start: int | None = None
    """Environment step from which on events come; 10 % into the learning part of the run when not given."""
    end: int | None = None
    """Environment step of the last event; 40 % into the learning part when not given."""
    events: int = 12
    """Pruning events from start to end; undone ones are made up for behind the end, at the same distance."""
    min_width: int = 8
    """No layer becomes narrower, the latent neither."""
    round_to: int = 1
    """Widths become multiples of this."""
    keep: tuple[str, ...] = ()
    """Components left alone, for example ``encoder,policy``; ``latent`` is one."""
    shares: tuple[tuple[str, float], ...] = ()
    """Largest share of the units of a component's layers that may go, for example ``policy 0.5 latent 0.2``."""
    guard: bool = True
    """Judge each event on windows from the replay, and undo it beyond the tolerance."""
    tolerance: float = 0.5
    """By how much an event may raise the unexplained share of latents, rewards or values, or lower what planning gains
    over acting at random, as a share of that gain."""
    absorb: bool = True
    """Let the units that stay take over, by least squares, what the removed ones did; without it, they are cut off."""
    moments: Literal["carry", "reset"] = "carry"
    """What an event makes of the optimiser: its moments follow the units that stay, or it begins afresh."""
    rest: int = 1
    """Events for which the component to blame is left alone after an undone one."""
    smoothing: float = 0.99
    """Share of the past in the running averages of gradients."""
    forgetting: float = 0.999
    """Share of the past in the Bayesian posterior."""
    bound: Bound = "mean"
    """What the Bayesian score takes of the posterior: its mean, or one deviation below or above it."""
    history: Literal["constant", "cosine"] = "constant"
    """Weight of history against the present in the Bayesian score: a half, or from 0 at start to 1 at end."""
    observe: bool = False
    """Record every criterion's score of every group in the snapshots, also with target 0, where nothing is cut."""
    observe_every: int = 1
    """Observe the gradients of every n-th update."""
    snapshot_every: int | None = None
    """Environment steps between two records of every unit's importance; a fiftieth of the run when not given."""

    @property
    def active(self) -> bool:
        """Whether there is anything to do."""
        return self.target != 0 or self.observe

    def rung(self, target: float) -> "PruneConfig":
        """The settings of one rung of the ladder, whose times follow from its own run."""
        return replace(self, target=target, ladder=(), start=None, end=None)

    @property
    def timetable(self) -> Schedule:
        """When how much is removed; ``resolved`` first."""
        assert self.start is not None and self.end is not None
        return Schedule(self.schedule, self.target, self.start, self.end, self.events, self.relative)

    def limits(self, dense: Groups) -> Limits:
        """How far each axis of a model of initially these widths may go."""
        shares = dict(self.shares)

        def floor(component: str, width: int) -> int:
            if component in self.keep:
                return width
            return max(min(self.min_width, width), ceil(width * (1 - shares.get(component, 1.0)) - 1e-9))

        floors = {axis.name: floor(axis.component, axis.size) for axis in dense.axes}
        return Limits(dense.widths, floors, self.round_to)


def resolved(config: PruneConfig, *, first_update: int, length: int) -> PruneConfig:
    """The settings with what was not given filled in.

    Args:
        config: the settings.
        first_update: step of the first update.
        length: steps of the run.
    """
    start, end = (first_update + round(share * (length - first_update)) for share in (FIRST, LAST))
    return replace(
        config,
        start=start if config.start is None else config.start,
        end=end if config.end is None else config.end,
        snapshot_every=max(length // SNAPSHOTS, 1) if config.snapshot_every is None else config.snapshot_every,
        keep=tuple(name for names in config.keep for name in names.split(",") if name),
    )


def check(config: PruneConfig, dense: Groups, current: Groups, *, first_update: int, length: int) -> None:
    """Refuse, before training starts, what cannot work.

    Args:
        config: ``resolved`` settings.
        dense: the model as it was at first, which targets and limits refer to.
        current: the model as it is.
        first_update: step of the first update.
        length: steps of the run.

    Raises:
        PruneError: every problem, by the setting's name on the command line.
    """
    problems = [
        f"--prune.{name} must be {expected}, got {got}" for name, holds, expected, got in _ranges(config) if not holds
    ]
    problems += _without_effect(config)
    if config.target:
        problems += _impossible(config, dense, first_update=first_update, length=length)
    if config.target and not problems:
        problems = _unreachable(config, dense, current)
    if problems:
        raise PruneError("; ".join(problems))


def check_ladder(config: PruneConfig) -> None:
    """Refuse a ladder that cannot be climbed.

    Raises:
        PruneError: what is wrong with it, by the setting's name on the command line.
    """
    ladder = config.ladder
    shown = " ".join(f"{rung:g}" for rung in ladder)
    if len(ladder) < 2:
        raise PruneError(f"--prune.ladder must have two rungs or more, got {shown}: --prune.target is for one")
    if not all(0 < rung < 1 for rung in ladder):
        raise PruneError(f"--prune.ladder must have shares above 0 and below 1, got {shown}")
    if list(ladder) != sorted(set(ladder)):
        raise PruneError(f"--prune.ladder must rise, as each rung is pruned from the one before, got {shown}")
    given = {"target": config.target or None, "start": config.start, "end": config.end}
    if beside := [f"--prune.{name}" for name, value in given.items() if value is not None]:
        raise PruneError(f"--prune.ladder says how much goes and when: leave out {', '.join(beside)}")


def _without_effect(config: PruneConfig) -> list[str]:
    """Settings of the Bayesian score where nothing reads it."""
    if config.criterion in ("bayesian", "average") or config.observe:
        return []
    settings = {"bound": config.bound != "mean", "history": config.history != "constant"}
    return [
        f"--prune.{name} is of the Bayesian score: --prune.criterion must be bayesian or average, or --prune.observe "
        f"given, got {config.criterion}"
        for name, changed in settings.items()
        if changed
    ]


def _impossible(config: PruneConfig, dense: Groups, *, first_update: int, length: int) -> list[str]:
    """What is wrong with times, components and widths."""
    problems = []
    assert config.start is not None and config.end is not None
    if not first_update <= config.start < config.end:
        problems.append(
            f"--prune.start must be at least {first_update}, when learning begins, and below --prune.end, "
            f"got {config.start} and {config.end}"
        )
    if config.end > length:
        problems.append(f"--prune.end must be at most {length}, the end of training, got {config.end}")
    known = dense.components
    for flag, names in {"keep": config.keep, "shares": [name for name, _ in config.shares]}.items():
        unknown = [name for name in names if name not in known]
        if unknown:
            problems.append(f"--prune.{flag}: there is no component {', '.join(unknown)}; there are {', '.join(known)}")
    pruned = [axis for axis in dense.axes if axis.component not in config.keep]
    narrow = [f"{axis.name} has {axis.size}" for axis in pruned if axis.size < config.min_width]
    if narrow:
        problems.append(
            f"--prune.min-width must be at most the width of every layer that is pruned, got {config.min_width} where "
            f"{', '.join(narrow)}"
        )
    return problems


def _ranges(config: PruneConfig) -> list[tuple[str, bool, str, Any]]:
    shares = [share for _, share in config.shares]
    return [
        ("target", 0 <= config.target < 1, "at least 0 and below 1", config.target),
        ("events", config.events > 0, "positive", config.events),
        ("min-width", config.min_width > 0, "positive", config.min_width),
        ("round-to", config.round_to > 0, "positive", config.round_to),
        ("shares", all(0 <= share <= 1 for share in shares), "from 0 to 1", shares),
        ("tolerance", config.tolerance >= 0, "0 or more", config.tolerance),
        ("rest", config.rest >= 0, "0 or more", config.rest),
        ("smoothing", 0 <= config.smoothing < 1, "at least 0 and below 1", config.smoothing),
        ("forgetting", 0 <= config.forgetting < 1, "at least 0 and below 1", config.forgetting),
        ("observe-every", config.observe_every > 0, "positive", config.observe_every),
        ("snapshot-every", (config.snapshot_every or 0) > 0, "positive", config.snapshot_every),
    ]


def _unreachable(config: PruneConfig, dense: Groups, current: Groups) -> list[str]:
    """What is wrong with the target for a model of these sizes."""
    limits, whole = config.limits(dense), dense.cost(config.budget)
    gone = 1 - current.cost(config.budget) / whole
    if gone >= config.target:
        return [f"--prune.target must be above the {gone:.3f} of its {config.budget} that the model has lost already"]
    widths = current.widths
    for axis, width in widths.items():
        while (below := limits.next_below(axis, width)) < width:
            width = below
        widths[axis] = width
    narrowest = 1 - current.resized(widths).cost(config.budget) / whole
    if widths == current.widths:
        return [
            "nothing is left to prune: every layer is kept or as narrow as it may be (--prune.keep, --prune.min-width)"
        ]
    if narrowest < config.target:
        return [
            f"--prune.target {config.target} cannot be reached: {narrowest:.3f} of the {config.budget} can go within "
            "--prune.keep, --prune.shares, --prune.min-width and --prune.round-to"
        ]
    return []
