"""Pruning single weights, rule beside rule, at equal sparsity: ``python -m tdmpc.scripts.experiments.single_weights``.

    weights.csv          one row for each pruned network: how, how much, how good
    bounds.csv           how far each component is off: by the bounds, and as measured
    compressibility.csv  soft sparsity and PQ index of networks beside how much of each can be dropped

A task is a subject (``subjects``), and a method is one of ``METHODS`` or ``sap``.
"""

import copy
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import tyro

from tdmpc.compression import sparsity as indices
from tdmpc.compression.error_bounds import mean_square, worst_case
from tdmpc.compression.single_weights import Masks, Rule, changes, chosen, drop, measured, sap_masks, watched
from tdmpc.scripts.csv_tables import add_rows
from tdmpc.scripts.experiments.subjects import Case, Subject, Trained, cases

PQ = (0.5, 1.0)
TOLERANCE = 0.1
"""Error of a component's output beside what it varies by, up to which weights may be dropped."""
MOMENTS = (0, 100, 500)
"""Updates of a training after which its network is looked at, besides the end."""
SHARES = tuple(step / 20 for step in range(1, 20))
"""Of weights dropped, in the search for how many may be."""


class Method(NamedTuple):
    """How weights are dropped."""

    rule: Rule
    refit: bool
    """Those that stay are fitted by least squares."""
    rounds: int
    """In which the sparsity is reached; training on after each."""
    trained: bool


METHODS = {
    f"{rule}{', least squares' if refit else ''}{name}": Method(rule, refit, rounds, trained)
    for rule in ("global", "layer", "neuron")
    for refit, rounds, trained, name in (
        (False, 1, False, ""),
        (True, 1, False, ""),
        (False, 5, True, ", iterative"),
        (True, 5, True, ", iterative"),
    )
}


SKIPPED = ("global, iterative", "layer, iterative", "neuron, iterative", "global, least squares, iterative")
"""Methods that a slow subject is spared."""


@dataclass(frozen=True)
class StudyArgs:
    """Prune single weights of one kind of network, by every method; rows are written as tables."""

    task: Literal["dynamics", "autoencoder", "agent"]
    """What the network does."""
    part: Literal["weights", "bounds", "compressibility"] = "weights"
    """Accuracy against sparsity, bounds beside errors, or how much may go at a fixed loss."""
    robot: Path = Path("runs/walker-walk-v0-0")
    """Run whose replay the dynamics are learned from."""
    agents: Path = Path("runs/cartpole-swingup-v0-SEED")
    """Runs of the agent."""
    others: tuple[Path, ...] = ()
    """Runs whose agents are looked at in ``compressibility`` too."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of networks; of the agents, in place of SEED."""
    out: Path = Path("results/single-weights")
    """Folder of the tables."""


# Pruning ---------------------------------------------------------------------------------------------------------


def prune(subject: Subject, method: Method, sparsity: float, updates: int) -> float:
    """Drop this share of a subject's weights, in place; returns the share that is zero then."""
    masks: Masks = {}
    for turn in range(1, method.rounds + 1):
        seen = watched(subject.components, subject.run)
        reached = 1 - (1 - sparsity) ** (turn / method.rounds)
        masks = chosen(seen.weights(), rule=method.rule, sparsity=reached)
        drop(subject.components, masks, seen.inputs if method.refit else None)
        if method.trained:
            subject.train(updates // method.rounds, masks)
    return dropped(masks)


def dropped(masks: Masks) -> float:
    """The share of weights that does not stay."""
    return 1 - sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())


def sap(case: Case, seed: int, dense: Subject) -> Iterator[tuple[float, Subject]]:
    """SAP, round by round: each goes back to the first weights that are left, as published, and trains anew.

    An agent that comes trained has no first weights here: it trains on.
    """
    first = case.make(seed)
    subject, masks = dense, {}
    for _ in range(case.sap_rounds):
        masks = sap_masks(watched(subject.components, subject.run).weights(), scope="neuron", p=PQ[0], q=PQ[1])
        subject = copy.deepcopy(first if case.updates else subject)
        drop(subject.components, masks)
        subject.train(case.updates or case.further, masks)
        yield dropped(masks), subject


# What is measured ------------------------------------------------------------------------------------------------


def weights(task: str, case: Case, seed: int) -> Iterator[dict[str, Any]]:
    """One row for each pruned network, the dense one first."""
    dense = trained(case, seed)

    def row(method: str, share: float, subject: Subject) -> dict[str, Any]:
        return {
            **{"task": task, "method": method, "seed": seed, "sparsity": round(share, 4)},
            **{"score": f"{subject.score():.5g}", "pq_index": f"{_indices(subject)[1]:.4g}"},
        }

    yield row("dense", 0.0, dense)
    for name, method in METHODS.items():
        for share in case.iterative if method.trained else case.sparsities:
            if case.slow and name in SKIPPED:
                continue
            subject = copy.deepcopy(dense)
            reached = prune(subject, method, share, case.further)
            yield {**row(name, reached, subject), "asked": share}
    for share, subject in sap(case, seed, dense):
        yield row("sap", share, subject)


def bounds(task: str, case: Case, seed: int) -> Iterator[dict[str, Any]]:
    """What the bounds promise of each component beside what is measured: one layer pruned, and all of them."""
    dense = trained(case, seed)
    seen = watched(dense.components, dense.run)
    masks = {share: chosen(seen.weights(), rule="neuron", sparsity=share) for share in (0.5, 0.8)}
    for share, refit in ((share, refit) for share in masks for refit in (False, True)):
        for layer in ("all", *seen.weights()):
            subject = copy.deepcopy(dense)
            part = {name: mask for name, mask in masks[share].items() if layer in ("all", name)}
            drop(subject.components, part, seen.inputs if refit else None)
            for component in seen.stages if layer == "all" else (layer.partition(".")[0],):
                change = changes(seen, subject.components, component)
                found = measured(seen, subject.components, component)
                figures = {
                    "worst_case": worst_case(change).max().item(),
                    "largest": found.largest,
                    "mean_square": mean_square(change).max().item(),
                    "rms": found.root_mean_square,
                    "of_output": found.of_output,
                }
                yield {
                    **{
                        "task": task,
                        "method": "least squares" if refit else "dropped",
                        "seed": seed,
                        "sparsity": share,
                    },
                    **{"component": component, "layer": layer},
                    **{name: f"{figure:.4g}" for name, figure in figures.items()},
                }


def compressibility(task: str, subject: Subject, seed: int, moment: str) -> Iterator[dict[str, Any]]:
    """Of each component how sparse it is, softly, and what share can be dropped before its output is off too far."""
    seen = watched(subject.components, subject.run)
    found: dict[tuple[str, bool], list[float]] = {
        (component, refit): [] for component in seen.stages for refit in (False, True)
    }
    for share, refit in ((share, refit) for share in SHARES for refit in (False, True)):
        if refit and round(share * 20) % 2:  # least squares take their time
            continue
        other = copy.deepcopy(subject.components)
        drop(other, chosen(seen.weights(), rule="layer", sparsity=share), seen.inputs if refit else None)
        for component in seen.stages:
            if measured(seen, other, component).of_output <= TOLERANCE:
                found[component, refit].append(share)
    for component, chain in seen.stages.items():
        soft, pq = _of_rows([stage.weight for stage in chain])
        yield {
            **{"task": task, "method": component, "seed": seed, "moment": moment},
            "weights": sum(stage.weight.numel() for stage in chain),
            "widths": "-".join(str(stage.weight.shape[1]) for stage in chain),
            **{"soft_sparsity": f"{soft:.5g}", "pq_index": f"{pq:.5g}"},
            "cut": max(found[component, False], default=0.0),
            "cut_refitted": max(found[component, True], default=0.0),
        }


def trained(case: Case, seed: int) -> Subject:
    """A subject at the end of its training."""
    subject = case.make(seed)
    subject.train(case.updates)
    return subject


def _moments(task: str, case: Case, seed: int) -> Iterator[dict[str, Any]]:
    subject, before = case.make(seed), 0
    for moment in (*MOMENTS, case.updates) if case.updates else (0,):
        subject.train(moment - before)
        before = moment
        yield from compressibility(task, subject, seed, str(moment) if case.updates else "end")


def _indices(subject: Subject) -> tuple[float, float]:
    return _of_rows(list(watched(subject.components, subject.run).weights().values()))


def _of_rows(layers: list[torch.Tensor]) -> tuple[float, float]:
    """Mean soft sparsity and PQ index of all neurons, of the weights that are not zero."""
    rows = [row[row != 0].double() for w in layers for row in w.flatten(0, -2) if row.any()]
    soft = [indices.soft_sparsity(row, 0.5).item() for row in rows]
    pq = [indices.pq_index(row, *PQ).item() for row in rows]
    return sum(soft) / len(soft), sum(pq) / len(pq)


def main(arguments: list[str]) -> int:
    """Parse, measure, write; rows of other tasks stay."""
    args = tyro.cli(StudyArgs, args=arguments, prog="python -m tdmpc.scripts.experiments.single_weights")
    torch.set_num_threads(1)
    case = cases(args.robot, args.agents)[args.task]
    part = {"weights": weights, "bounds": bounds, "compressibility": _moments}[args.part]
    rows = []
    for seed in args.seeds:
        for row in part(args.task, case, seed):
            rows.append(row)
            print(row, flush=True)
    for run in args.others:
        subject = Trained(run)
        rows += compressibility(f"{subject.agent.spec.id}", subject, subject.agent.config.seed, "end")
        print(rows[-1], flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    add_rows(args.out / f"{args.part}.csv", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
