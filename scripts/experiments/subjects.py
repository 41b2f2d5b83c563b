"""Networks whose single weights are pruned: a robot's dynamics, an autoencoder, an agent."""

import abc
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tdmpc.compression.single_weights import Masks, drop
from tdmpc.compression.tdmpc_agent.networks import run_all
from tdmpc.evaluation import EVALUATION_STREAM, evaluate
from tdmpc.layers import mlp
from tdmpc.runs import load_agent, load_replay
from tdmpc.scripts.autoencoder_model import Shape, Training, psnr
from tdmpc.scripts.digits import digits

WINDOWS = 1024
"""Of the replay of an agent, that is watched and fitted on."""
EPISODES = 2
"""By which an agent is judged."""


class Subject(abc.ABC):
    """A network in training, and how good it is."""

    components: nn.ModuleDict

    @abc.abstractmethod
    def run(self) -> None:
        """Put all components to work on the data that they were trained on."""

    @abc.abstractmethod
    def update(self) -> None:
        """One gradient step."""

    @abc.abstractmethod
    def score(self) -> float:
        """How good it is on what it was not trained on: more is better."""

    def train(self, updates: int, masks: Masks | None = None) -> None:
        """Gradient steps; what the masks drop stays zero."""
        for _ in range(updates):
            self.update()
            if masks is not None:
                drop(self.components, masks)


class Transitions(NamedTuple):
    """What a robot did, standardised: observation and action, and by how much the observation then changed."""

    inputs: Float[Tensor, "N X"]
    changes: Float[Tensor, "N O"]


BLOCK = 500
"""Rows that are held out together, one block in five: neighbours in time say the same."""


def transitions(run: Path) -> tuple[Transitions, Transitions]:
    """What the replay of a run with one environment has, to train on and held out."""
    agent, _ = load_agent(run, compile=False, device="cpu")
    state = load_replay(run, agent).state()
    rows, starts = (torch.from_numpy(state[name]) for name in ("rows", "is_transition"))
    first = starts[:-1].nonzero().flatten()
    width = agent.spec.observation_dim
    inputs, changes = rows[first, :-1], rows[first + 1, :width] - rows[first, :width]
    held_out = torch.arange(len(first)) // BLOCK % 5 == 4
    parts = [(each - each[~held_out].mean(0)) / each[~held_out].std(0).clamp(min=1e-6) for each in (inputs, changes)]
    train, test = (Transitions(*(part[chosen] for part in parts)) for chosen in (~held_out, held_out))
    return train, test


class Dynamics(Subject):
    """A network that foretells how a robot's observation changes; the score is the share of variance explained."""

    def __init__(self, train: Transitions, test: Transitions, seed: int) -> None:
        torch.manual_seed(seed)
        self.data, self.test = train, test
        self.components = nn.ModuleDict({"net": mlp(train.inputs.shape[1], (128, 128), train.changes.shape[1])})
        self.optimizer = torch.optim.Adam(self.components.parameters(), lr=1e-3, fused=True)

    def run(self) -> None:
        self.components["net"](self.data.inputs)

    def update(self) -> None:
        rows = torch.randint(len(self.data.inputs), (128,))
        self.optimizer.zero_grad()
        F.mse_loss(self.components["net"](self.data.inputs[rows]), self.data.changes[rows]).backward()
        self.optimizer.step()

    @torch.no_grad()
    def score(self) -> float:
        error = F.mse_loss(self.components["net"](self.test.inputs), self.test.changes)
        return 1 - (error / self.test.changes.var(0, correction=0).mean()).item()


class Digits(Subject):
    """The autoencoder of ``tdmpc autoencoder``; the score is the PSNR of test pictures in dB."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.images = digits()
        self.training = Training(Shape(), self.images, 1e-3)
        model = self.training.model
        self.components = nn.ModuleDict({"encoder": model.encoder, "decoder": model.decoder})

    def run(self) -> None:
        self.training.model(self.images.train)

    def update(self) -> None:
        self.training.update(self.images.train[torch.randint(len(self.images.train), (128,))], None)

    def score(self) -> float:
        return psnr(self.training.model, self.images.test)


class Trained(Subject):
    """The agent of a finished run, which learns on from its replay; the score is its return."""

    def __init__(self, run: Path) -> None:
        torch.manual_seed(0)
        self.agent, self.meta = load_agent(run, compile=False, device="cpu")
        self.replay = load_replay(run, self.agent)
        self.batch = self.replay.sample(WINDOWS)
        self.components = self.agent.model.components

    def run(self) -> None:
        run_all(self.agent.model, self.batch.observations[0], self.batch.actions)

    def update(self) -> None:
        self.agent.update(self.replay.sample(self.agent.config.batch_size))

    def score(self) -> float:
        seed = self.agent.config.seed + EVALUATION_STREAM
        return evaluate(self.agent, step=self.meta["agent_steps"], episodes=EPISODES, seed=seed).return_mean


class Case(NamedTuple):
    """What is compared on a subject."""

    make: Callable[[int], Subject]
    """A new subject of a seed, before its training."""
    updates: int
    """Of its training; 0 where it comes trained."""
    further: int
    """Updates after a cut, or of all rounds together."""
    sparsities: tuple[float, ...]
    """Reached in one round."""
    iterative: tuple[float, ...]
    """Reached in several, with training between them."""
    sap_rounds: int
    slow: bool = False
    """To train and to judge it takes minutes: some methods are left out."""


def cases(robot: Path, agents: Path) -> dict[str, Case]:
    """The three subjects.

    Args:
        robot: run whose replay the dynamics are learned from.
        agents: runs of the agent, with SEED in the place of the seed.
    """
    data = cache(lambda: transitions(robot))

    def dynamics(seed: int) -> Dynamics:
        train, test = data()
        return Dynamics(train, test, seed)

    shares = (0.5, 0.8, 0.9, 0.95)
    return {
        "dynamics": Case(dynamics, 2000, 250, shares, shares, 6),
        "autoencoder": Case(Digits, 2000, 250, shares, shares, 6),
        "agent": Case(
            lambda seed: Trained(Path(str(agents).replace("SEED", str(seed)))), 0, 150, (0.5, 0.8), (0.8,), 0, slow=True
        ),
    }
