"""The life of an agent, and whether two lives are the same bit for bit."""

from collections.abc import Callable

import torch
from torch import Tensor

from tdmpc.actor import Actor
from tdmpc.agent import Agent
from tdmpc.spec import Batch

MakeAgent = Callable[..., Agent]
MakeBatch = Callable[..., Batch]
State = dict[str, Tensor]


def copied(state: State) -> State:
    return {name: tensor.clone() for name, tensor in state.items()}


def differing(state: State, other: State) -> list[str]:
    """Names of the tensors that are not the same bit for bit, or missing in one."""
    missing = state.keys() ^ other.keys()
    return sorted(missing | {name for name in state.keys() & other.keys() if not torch.equal(state[name], other[name])})


def live(agent: Agent, batches: list[Batch], actor: Actor | None = None, *, reward: float = 1.0) -> list[Tensor]:
    """Observe, act and learn, once for each batch; what was done and what came of it."""
    record = []
    for step, batch in enumerate(batches):
        agent.observe(batch.observations[0], reward * batch.rewards[0])
        if actor is not None:
            record.append(actor.act(batch.observations[0, : actor.lanes], step=step, explore=bool(step % 2)))
        update = agent.update(batch._replace(rewards=reward * batch.rewards))
        record += [update.priorities, *update.metrics.values()]
    return record


def identical(records: list[Tensor], others: list[Tensor]) -> bool:
    return len(records) == len(others) and all(map(torch.equal, records, others))
