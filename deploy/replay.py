"""A record of decisions, decided again: each plan from what it was made of, each action from the plans."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tdmpc.deploy import bundle, contract
from tdmpc.deploy.agenda import Agenda
from tdmpc.deploy.backends import Graph, Runtime
from tdmpc.deploy.bundle import Arrays, Bundle, BundleError, actuate
from tdmpc.deploy.faults import Fault
from tdmpc.deploy.plan_runner import Made, draw_noise
from tdmpc.deploy.recording import read, reading


@dataclass(frozen=True)
class Replayed:
    """What a replay found."""

    decisions: int
    plans: int
    """Compared: mean, first action and value, bit for bit."""
    plans_differ: tuple[int, ...]
    """Decisions that begin a plan that came out otherwise."""
    actions: int
    """Compared: what was due by the plans, bit for bit. Those of fault policies, and those that were planned before the
    record begins, are not."""
    actions_differ: tuple[int, ...]


def replay(path: Path | str, folder: Path | str, runtime: Runtime | None = None) -> Replayed:
    """Decide again.

    Args:
        path: what ``Controller.load(..., record=FILE)`` wrote.
        folder: the bundle that decided.
        runtime: as it was then; other runtimes, threads and processors round otherwise.

    Raises:
        BundleError: one of them is damaged, or another bundle decided.
    """
    described = bundle.read(folder)
    facts, rows = read(path)
    if facts["model"] != described.model_id:
        raise BundleError(f"{path} was recorded with another bundle than {folder}: give --bundle the one that decided")
    names = [bundle.START, bundle.REFINE] if facts["deadline"] == "True" else [bundle.PLANNER]
    graphs = [contract.load(described, name, runtime or Runtime()) for name in names]
    plans = dict(_plan_again(rows, described, graphs))
    agenda, newest, episode = Agenda(described), 0, None
    compared, plans_differ, actions, actions_differ = 0, [], 0, []
    for row in rows:
        decided = row["/decision"]
        number = decided["decision"]
        if decided["episode"] != episode:
            episode = decided["episode"]
            agenda.reset(_at_first(described, episode, first=rows[0]["/decision"]["decision"]))
        for made in _taken(row):
            begins = made["decision"]
            if begins > newest and begins in plans:
                agenda.add(plans[begins])
                compared += 1
                plans_differ += [] if _same(plans[begins], made) else [begins]
            newest = max(newest, begins)
        if {*decided["faults"]} - {Fault.LATE.value}:  # whatever the fault policy said
            agenda.put(number + described.delay, np.full_like(described.low, np.nan))
        due, _ = agenda.take(number)
        if due is not None and np.isfinite(due).all():
            actions += 1
            actions_differ += [] if np.array_equal(due, np.float32(row["/action"]["due"])) else [number]
    return Replayed(len(rows), compared, tuple(plans_differ), actions, tuple(actions_differ))


def _plan_again(rows: list[Any], described: Bundle, graphs: list[Graph]) -> Any:
    """Each plan that the record tells the inputs of, by the decision that it begins with."""
    taken = {made["decision"]: made["iterations"] for row in rows for made in _taken(row)}
    random = None
    for row in rows:
        planning, begins = row["/decision"].get("planning"), row["/decision"]["decision"] + described.delay
        if planning is None:
            continue
        random = generator(planning.pop("stream")) if "stream" in planning else random
        if random is None:
            continue
        noise = {name: np.zeros(shape, np.float32) for name, shape in described.noise_shapes.items()}
        draw_noise(random, noise)
        if begins not in taken:
            continue
        inputs = {name: np.array(values, np.float32) for name, values in planning.items()}
        for sensor in described.sensors:
            inputs[sensor.input] = np.array(reading(row["/sensors"], sensor.name), np.float32).reshape(sensor.shape)
        made = _run(graphs, inputs, noise, taken[begins])
        yield begins, Made(begins, taken[begins], made["action"], made["new_mean"], float(made["value"]))


def _taken(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The plans that were ready by the end of a decision; the last is the newest."""
    return [*row["/plan"].get("earlier", []), row["/plan"]] if "/plan" in row else []


def _run(graphs: list[Graph], inputs: Arrays, noise: Arrays, iterations: int) -> Arrays:
    if len(graphs) == 1:
        return graphs[0]({**inputs, **noise})
    start, refine = graphs
    draws = noise.pop("noise_samples")
    state, refined = dict(start({**inputs, **noise})), Arrays()
    for each in draws[:iterations]:
        refined = refine({**state, "noise": each})
        state |= {"mean": refined["new_mean"], "std": refined["new_std"]}
    return refined


def _same(made: Made, recorded: dict[str, Any]) -> bool:
    return (
        np.array_equal(made.mean, np.float32(recorded["actions"]))
        and np.array_equal(made.action, np.float32(recorded["first"]))
        and (made.value == recorded["value"] or (recorded["value"] is None and not np.isfinite(made.value)))
    )


def _at_first(described: Bundle, episode: int, *, first: int) -> dict[int, np.ndarray]:
    """What is due before anything that was planned in an episode; nothing of one that began before the record."""
    if episode < first - 1:
        return {}
    middle = actuate(np.zeros_like(described.low), described.low, described.high)
    return dict.fromkeys(range(episode + 1, episode + 1 + described.delay), middle)


def generator(words: Sequence[int]) -> np.random.Generator:
    """The random stream of a state, in words of 32 bits as ``tdmpc.deploy.recording`` writes it."""
    state, inc = (sum(int(word) << 32 * place for place, word in enumerate(part)) for part in (words[:4], words[4:8]))
    bits = np.random.PCG64()
    bits.state = {
        "bit_generator": "PCG64",
        "state": {"state": state, "inc": inc},
        "has_uint32": int(words[8]),
        "uinteger": int(words[9]),
    }
    return np.random.Generator(bits)
