"""The agent: a world model with its target network, optimisers and precision."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tdmpc import compiling
from tdmpc.checkpoint import below, prefixed
from tdmpc.compiling import Function
from tdmpc.config import TrainConfig
from tdmpc.device import find_device, resolve_precision
from tdmpc.losses import model_loss, policy_loss, targets
from tdmpc.normalization import ObservationMoments, RewardMagnitudes
from tdmpc.planner import imagine, propose
from tdmpc.spec import Batch, EnvSpec
from tdmpc.world_model import WorldModel

Parameters = Mapping[str, nn.Parameter]
"""Parameters of the world model by name."""


class NonFiniteError(RuntimeError):
    """A loss, gradient or plan is not finite; the step that would learn from it is not taken."""


class Update(NamedTuple):
    """What an update tells."""

    metrics: dict[str, Tensor]
    priorities: Float[Tensor, "B"]


class Agent:
    """Everything that learns. Pure functions do the work; this class owns the state they act on."""

    def __init__(self, config: TrainConfig, spec: EnvSpec) -> None:
        self.config = config = _with_first_width(config)
        self.spec = spec
        self.device = find_device(config.device)
        self.precision = resolve_precision(config, self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = WorldModel(config.model, spec).to(self.device)
        self.target = copy.deepcopy(self.model).requires_grad_(False)
        self.planning = self._planning_copy()
        self.moments = ObservationMoments(spec.observation_dim)
        self.rewards = RewardMagnitudes()
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        self.updates = 0
        self.policy_parameters = dict(self.model.components["policy"].named_parameters(prefix="components.policy"))
        named = self.model.named_parameters()
        self.model_parameters = {name: each for name, each in named if name not in self.policy_parameters}
        rate = config.loss.learning_rate
        self.model_optimizer = torch.optim.Adam(self.model_parameters.values(), lr=rate, fused=True)
        self.policy_optimizer = torch.optim.Adam(self.policy_parameters.values(), lr=rate, fused=True)
        self.watch: Callable[[Parameters], None] = _unwatched
        """Called in each update with the parameters of a loss by name, their gradients there and not yet clipped."""
        self._targets = self._maybe_compiled(targets)
        self._model_loss = self._maybe_compiled(model_loss)
        self._policy_loss = self._maybe_compiled(policy_loss)
        self.propose = self._maybe_compiled(propose)
        self.imagine = self._maybe_compiled(imagine)
        if config.compile:
            for model in self._models():
                compiling.of_any_width(model)

    # The update: targets, rollout and losses, step, policy, target network -----------------------------------

    def update(self, batch: Batch) -> Update:
        """One gradient step of the world model and one of the policy.

        Raises:
            NonFiniteError: names the loss or the component. The step it names is not taken; a fault of the
                policy comes after the world model's step.
        """
        config = self.config
        shape = (len(batch.actions) + 1, *batch.actions.shape[1:])
        noise = torch.randn(shape, generator=self.generator, device=self.device)
        with self.autocast():
            goal = self._targets(self.model, self.target, batch, noise[1:], loss=config.loss, planner=config.planner)
            loss = self._model_loss(self.model, batch, goal, config=config.loss)
        model_norm = self._step(self.model_optimizer, self.model_parameters, loss.total, loss.parts)

        noise = torch.randn(shape, generator=self.generator, device=self.device)
        with self.autocast(), _frozen(self.model_parameters.values()):
            policy = self._policy_loss(
                self.model, loss.latents, batch.alive, noise, loss=config.loss, planner=config.planner
            )
        policy_norm = self._step(self.policy_optimizer, self.policy_parameters, policy, {"policy": policy.detach()})

        self.updates += 1
        if self.updates % config.loss.target_period == 0:
            self._move_target()
        losses = {"total": loss.total.detach(), "policy": policy.detach(), **loss.parts}
        return Update(
            metrics={f"loss/{name}": value for name, value in losses.items()}
            | {"grad_norm/model": model_norm, "grad_norm/policy": policy_norm},
            priorities=loss.priorities,
        )

    def _step(
        self, optimizer: torch.optim.Optimizer, named: Parameters, loss: Tensor, parts: dict[str, Tensor]
    ) -> Tensor:
        parameters = list(named.values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=parameters)
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        if not torch.isfinite(loss.detach() + norm):
            raise NonFiniteError(self._blame(parts))
        self.watch(named)
        nn.utils.clip_grads_with_norm_(parameters, self.config.loss.gradient_clip, norm)
        optimizer.step()
        return norm

    def _blame(self, parts: dict[str, Tensor]) -> str:
        losses = [name for name, value in parts.items() if not torch.isfinite(value)]
        if losses:
            return f"the {', '.join(losses)} loss is not finite at update {self.updates}"
        gradients = [
            name
            for name, component in self.model.components.items()
            if any(p.grad is not None and not torch.isfinite(p.grad).all() for p in component.parameters())
        ]
        return f"the gradient of {', '.join(gradients)} is not finite at update {self.updates}"

    @torch.no_grad()
    def _move_target(self) -> None:
        rate = self.config.loss.target_rate
        for slow, fast in zip(self.target.parameters(), self.model.parameters(), strict=True):
            slow.lerp_(fast, rate)

    # What the agent learns about the units of its environment --------------------------------------------------

    def observe(self, observations: Float[Tensor, "N O"], rewards: Float[Tensor, "N"]) -> float:
        """Take new data into the observation statistics and the reward scale; by what factor the scale has grown."""
        if self.config.model.normalize_observations:
            self.moments.add(observations)
            for model in self._models():
                model.observation_mean.copy_(self.moments.mean)
                model.observation_std.copy_(self.moments.std)
        if not self.config.model.scale_rewards:
            return 1.0
        self.rewards.add(rewards)
        return self._fit_reward_scale(self.rewards.scale)

    def _fit_reward_scale(self, scale: float) -> float:
        """Grow the scale to this one, or by what was learned in it; before the first update it may shrink, too."""
        factor = scale / self.model.reward_scale.item()
        if factor == 1.0 or (factor < 1.0 and self.updates):
            return 1.0
        for model in self._models():
            model.grow_reward_scale(factor)
        self._rescale_moments(factor)
        return factor

    def _rescale_moments(self, factor: float) -> None:
        """Leave in Adam the moments of the gradients as they are in the new units.

        An error in model units shrinks by ``factor``, and so does what an output layer passes down: behind
        it, gradients shrink twice. Those of encoder and dynamics are mixed with the latent error's and stay.
        """
        outputs = {id(parameter) for parameter in self.model.scaled_parameters()}
        for component in ("reward", "value", "policy"):
            for name, parameter in self.model.components[component].named_parameters(prefix=f"components.{component}"):
                once = component == "policy" or id(parameter) in outputs
                shrunk = factor if once else factor**2
                moments = self._optimizer_of(name).state.get(parameter, {})
                if moments:
                    moments["exp_avg"] /= shrunk
                    moments["exp_avg_sq"] /= shrunk**2

    # Precision and compilation ---------------------------------------------------------------------------------

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Matrix products in the agent's precision."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            yield

    def planning_model(self) -> WorldModel:
        """The model to plan with, up to date, in the agent's precision."""
        if self.planning is not self.model:
            with torch.no_grad():
                for copied, learned in zip(self.planning.parameters(), self.model.parameters(), strict=True):
                    copied.copy_(learned)
        return self.planning

    def _planning_copy(self) -> WorldModel:
        if self.precision == "float32":
            return self.model
        planning = copy.deepcopy(self.model).requires_grad_(False)
        planning.components.to(torch.bfloat16)
        return planning

    def _maybe_compiled(self, function: Function) -> Function:
        return compiling.compiled(function, self.device.type) if self.config.compile else function

    def _models(self) -> list[WorldModel]:
        return list({id(model): model for model in (self.model, self.target, self.planning)}.values())

    # State -----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the agent's future depends on, by name; ``load_state`` takes it back."""
        return {
            **prefixed("model", self.model.state_dict()),
            **prefixed("target", self.target.state_dict()),
            **prefixed("moments", self.moments.state()),
            **prefixed("optimizer", self._optimizer_state()),
            "generator": self.generator.get_state(),
            "updates": torch.tensor(self.updates),
            "reward_counts": self.rewards.counts,
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state of an agent with the same config and spec."""
        self.model.load_state_dict(below("model", state))
        self.target.load_state_dict(below("target", state))
        self.planning.load_state_dict(below("model", state))
        self.moments.load_state(below("moments", state))
        self._load_optimizers(below("optimizer", state))
        restore_generator(self.generator, state["generator"])
        self.updates = int(state["updates"])
        if "reward_counts" in state:
            self.rewards.counts = state["reward_counts"].clone()
        else:  # a checkpoint of format 1
            self.rewards.add(state["largest_reward"][None])

    def _optimizer_of(self, name: str) -> torch.optim.Optimizer:
        return self.policy_optimizer if name in self.policy_parameters else self.model_optimizer

    def _optimizer_state(self) -> dict[str, Tensor]:
        return {
            f"{name}/{key}": value
            for name, parameter in self.model.named_parameters()
            for key, value in self._optimizer_of(name).state.get(parameter, {}).items()
        }

    def _load_optimizers(self, state: dict[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            moments = {key: value.to(self.device).clone() for key, value in below(name, state).items()}
            optimizer = self._optimizer_of(name)
            optimizer.state.pop(parameter, None)
            if moments:
                optimizer.state[parameter] = moments


def _with_first_width(config: TrainConfig) -> TrainConfig:
    """The settings of an agent that may be pruned later: its first latent width is on record."""
    width = config.loss.consistency_width or config.model.latent
    return replace(config, loss=replace(config.loss, consistency_width=width))


@contextmanager
def _frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Take no gradients of these parameters: a compiled backward pass would compute them all."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _unwatched(parameters: Parameters) -> None:
    """Nobody looks at the gradients."""


def restore_generator(generator: torch.Generator, state: Tensor) -> None:
    """Go on with a stream of random numbers; one of another kind of device cannot be, and a new one starts."""
    if state.shape == generator.get_state().shape:
        generator.set_state(state)
