"""The online pruner: observes gradients, decides, shrinks, guards, and records each event whole.

It knows nothing of what it prunes but the table of its groups, and what a ``Prunable`` can do.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from tdmpc.compression.allocation import Limits, allocate
from tdmpc.compression.config import PruneConfig
from tdmpc.compression.groups import Budget, Groups, Keep, all_units
from tdmpc.compression.guard import blamed, objection
from tdmpc.compression.importance import CriterionName
from tdmpc.compression.levels import levels
from tdmpc.compression.observer import ALL, WATCHED, Observer, observers
from tdmpc.compression.prunable import Judgement, Prunable
from tdmpc.compression.records import EVENTS, IMPORTANCE, Journal, axis_record, rounded, sentence
from tdmpc.compression.shrink import composed

log = logging.getLogger(__name__)

SEEDS = 1_000_003
"""Seeds of the random criterion lie this far apart for two runs: one more for each event."""
S = TypeVar("S", bound=Prunable)


class OnlinePruner:
    """Prunes one model over a training run."""

    def __init__(
        self,
        config: PruneConfig,
        groups: Groups,
        folder: Path,
        *,
        dense: Groups | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        """Start before the first event.

        Args:
            config: ``resolved`` and checked settings.
            groups: of the model as it is.
            folder: where records go.
            dense: of the model as it was at first, which targets and limits refer to; as it is when not given.
            seed: of the random criterion.
            device: where the model is, and so its gradients and what they say.
        """
        self.config, self.seed = config, seed
        self.dense = dense or groups
        self.schedule, self.limits = config.timetable, config.limits(self.dense)
        self.journal, self.importance = Journal(folder / EVENTS), Journal(folder / IMPORTANCE)
        self.snapshot: dict[str, Any] = {}
        """The last record of the importance."""
        self.events = 0
        """Events that were due so far."""
        self.resting: dict[str, int] = {}
        """Components to be left alone, each with the last event for which it rests."""
        self.boldness = 1.0
        """Part of the schedule's largest cut that an event may make: halved by an undone one, doubled by a kept one."""
        self.updates = 0
        self.snapshot_at = 0
        self.units: Keep = {axis.name: all_units(axis) for axis in groups.axes}
        """The number that each unit had when pruning began."""
        self.observers = observers(config, groups, device)
        self._set_groups(groups)

    @property
    def decider(self) -> Observer:
        """The observer by whose criterion units go."""
        return next(iter(self.observers.values()))

    def _set_groups(self, groups: Groups) -> None:
        self.groups = groups
        self._awaited = set(groups.shapes)

    # Observing -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def observe(self, parameters: Mapping[str, Tensor]) -> None:
        """Look at the gradients of some parameters, before they are clipped.

        An update may come in parts, each with the parameters that it trains; it is whole when all have come.
        """
        for observer in self.observers.values():
            observer.look(parameters, update=self.updates)
        self._awaited -= parameters.keys()
        if not self._awaited:
            for observer in self.observers.values():
                observer.conclude()
            self.updates += 1
            self._awaited = set(self.groups.shapes)

    # Deciding --------------------------------------------------------------------------------------------------

    def due(self, step: int) -> bool:
        """Whether there is anything to do at a step: an event, or a snapshot of the importance."""
        every = self.config.snapshot_every or 1
        known = all(observer.knows for observer in self.observers.values())
        return known and (self.schedule.events_by(step) > self.events or step // every > self.snapshot_at // every)

    def advance(self, model: S, *, step: int) -> S:
        """Do what is due at a step of the training loop, between two updates.

        Returns:
            The model to go on with: a smaller one, or the same when no event was due or its cut was undone.
        """
        if not self.due(step):
            return model
        events = self.schedule.events_by(step)
        scores = self.scores(model, draw=events, step=step)
        self._snapshot(model, scores, step)
        if events > self.events:
            self.events = events
            model = self._event(model, scores, step)
        return model

    def scores(self, model: Prunable, *, draw: int, step: int) -> dict[str, Tensor]:
        """The importance ``[E W]`` of every group by the criterion, by axis.

        Args:
            model: whose weights count.
            draw: of the random criterion.
            step: when; the weight of history may depend on it.
        """
        return self._by_all(self.decider, model, draw=draw, step=step)[self.config.criterion]

    def _by_all(
        self, observer: Observer, model: Prunable, *, draw: int, step: int
    ) -> dict[CriterionName, dict[str, Tensor]]:
        return observer.scores(
            model.parameters(),
            torch.Generator().manual_seed(self.seed * SEEDS + draw),
            bound=self.config.bound,
            history=self.schedule.cosine(step) if self.config.history == "cosine" else 0.5,
        )

    def _event(self, model: S, scores: Mapping[str, Tensor], step: int) -> S:
        started = time.perf_counter()
        rested = [component for component, until in self.resting.items() if self.events <= until]
        goal = self._goal()
        keep = allocate(
            scores,
            self.groups,
            method=self.config.allocation,
            budget=self.config.budget,
            goal=self.dense.cost(self.config.budget) * (1 - goal),
            limits=self._limits(rested),
        )
        if not keep:
            return model
        smaller = self._cut(model, keep)
        judgement = smaller.judge(model, self.events)
        reason = objection(judgement, self.config.tolerance) if self.config.guard else ""
        to_blame = blamed(keep, self.groups, partial(self._judged, model)) if reason else ""
        if self.config.moments == "reset":
            smaller = smaller.with_fresh_optimizer()
        chosen = model if reason else smaller
        record = {
            **self._heading(step),
            "goal": goal,
            "decision": "undone" if reason else "kept",
            "reason": reason,
            "blamed": to_blame,
            "rested": rested,
            "axes": {
                name: axis_record(self.groups[name], self.units[name], stay, scores[name])
                for name, stay in keep.items()
            },
            "widths": chosen.groups.widths,
            "losses": {"before": dict(judgement.before), "after": dict(judgement.after)},
            "worsening": dict(judgement.worsening),
            "cost": {budget: self._costs(chosen.groups, budget) for budget in ("macs", "parameters")},
        }
        if reason:
            self.resting[to_blame], self.boldness = self.events + self.config.rest, self.boldness / 2
        else:
            self.boldness = min(2 * self.boldness, 1.0)
            self._replace_groups(keep, smaller.groups)
        record["seconds"] = round(time.perf_counter() - started, 4)
        self.journal.append(record)
        log.info("%s", sentence(record))
        return chosen

    def _cut(self, model: S, keep: Keep) -> S:
        return (model.absorbed(keep) if self.config.absorb else model).shrunk(keep)

    def _judged(self, model: Prunable, keep: Keep) -> Judgement:
        return self._cut(model, keep).judge(model, self.events)

    def _goal(self) -> float:
        """The share of the budget that is to have been removed after this event."""
        most = self.schedule.most(self._left(self.config.budget), self.boldness)
        return min(self.schedule.removed(self.events), most)

    def _left(self, budget: Budget) -> float:
        return self.groups.cost(budget) / self.dense.cost(budget)

    def _limits(self, rested: Iterable[str]) -> Limits:
        resting = {axis.name: axis.size for axis in self.groups.axes if axis.component in rested}
        return replace(self.limits, floors={**self.limits.floors, **resting})

    def _replace_groups(self, keep: Keep, groups: Groups) -> None:
        for observer in self.observers.values():
            observer.keep(keep, groups)
        self.units = composed(self.units, keep)
        self._set_groups(groups)

    def shortfall(self) -> str:
        """What is missing from the target, in a sentence; empty where it is reached."""
        left = self._left(self.config.budget)
        if left <= 1 - self.config.target:
            return ""
        return (
            f"pruning has not reached its target: {left:.1%} of the {self.config.budget} are left where "
            f"{1 - self.config.target:.1%} were asked for. {EVENTS} tells which events were undone and why. "
            "Train on (--resume with more --env-steps), or begin anew with an earlier end or a larger tolerance"
        )

    # Recording -------------------------------------------------------------------------------------------------

    def row(self) -> dict[str, float]:
        """What is left, for the rows of metrics."""
        return {
            "prune/events": self.journal.lines,
            **{f"prune/{b}_left": self._left(b) for b in ("macs", "parameters")},
            **{f"width/{name}": width for name, width in self.groups.widths.items()},
        }

    def _heading(self, step: int) -> dict[str, Any]:
        names = ("criterion", "allocation", "budget")
        when = {"event": self.events, "env_steps": step, "updates": self.updates}
        return when | {name: getattr(self.config, name) for name in names}

    def _costs(self, after: Groups, budget: Budget) -> dict[str, int]:
        return {"dense": self.dense.cost(budget), "before": self.groups.cost(budget), "after": after.cost(budget)}

    def _snapshot(self, model: Prunable, scores: Mapping[str, Tensor], step: int) -> None:
        self.snapshot_at = step
        axes = {
            name: {"units": self.units[name].tolist(), "scores": rounded(scores[name])} for name in self.groups.widths
        }
        self.snapshot = {**self._heading(step), "axes": axes, **self._watched(model, step)}
        self.importance.append(self.snapshot)

    def _watched(self, model: Prunable, step: int) -> dict[str, Any]:
        if ALL not in self.observers:
            return {}
        watcher = self.observers[ALL]
        known = self._by_all(watcher, model, draw=0, step=step)
        return {
            "criteria": {name: {axis: rounded(known[name][axis]) for axis in self.units} for name in WATCHED},
            "levels": {name: levels(known[name], watcher.table) for name in WATCHED},
        }

    # State -----------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the events to come depend on: tensors, and what JSON holds."""
        tensors: dict[str, Tensor] = {f"units/{name}": units for name, units in self.units.items()}
        numbers: dict[str, float] = {}
        for prefix, observer in self.observers.items():
            known, counted = observer.state()
            tensors |= {prefix + name: tensor for name, tensor in known.items()}
            numbers |= {prefix + name: number for name, number in counted.items()}
        meta = {
            **numbers,
            "events": self.events,
            "resting": self.resting,
            "boldness": self.boldness,
            "updates": self.updates,
            "snapshot_at": self.snapshot_at,
            "event_lines": self.journal.lines,
            "importance_lines": self.importance.lines,
        }
        return tensors, meta

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], groups: Groups) -> None:
        """Go on from a saved state with a model of these groups; records made after it are dropped."""
        for prefix, observer in self.observers.items():
            known, counted = (
                {name.removeprefix(prefix): value for name, value in part.items() if name.startswith(prefix)}
                for part in (tensors, meta)
            )
            observer.load_state(known, counted, groups)
        self.units = {axis.name: tensors[f"units/{axis.name}"].clone() for axis in groups.axes}
        self.events, self.resting, self.boldness = meta["events"], dict(meta["resting"]), meta["boldness"]
        self.updates, self.snapshot_at = meta["updates"], meta["snapshot_at"]
        self.journal.resume(meta["event_lines"])
        self.importance.resume(meta["importance_lines"])
        self._set_groups(groups)
