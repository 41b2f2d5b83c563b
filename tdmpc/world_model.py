"""The world model: encode, next, reward, terminates, q, pi.

Rewards and values are in *model units*: environment units divided by ``reward_scale``, which
is 1 where scaling is off. The scale is a power of two, so growing it changes no prediction
by a single bit (``grow_reward_scale``).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tdmpc.config import ModelConfig
from tdmpc.layers import Ensemble, mlp
from tdmpc.spec import EnvSpec

OBSERVATION_CLIP = 10.0
"""Standardised observations are clipped here: a sensor far outside its past must not dominate."""


class WorldModel(nn.Module):
    """All learned functions of an agent, as named components over one latent space."""

    observation_mean: Tensor
    observation_std: Tensor
    reward_scale: Tensor

    def __init__(self, config: ModelConfig, spec: EnvSpec) -> None:
        super().__init__()
        self.config = config
        joint = config.latent + spec.action_dim
        components: dict[str, nn.Module] = {
            "encoder": mlp(spec.observation_dim, config.encoder, config.latent),
            "dynamics": mlp(joint, config.dynamics, config.latent),
            "reward": mlp(joint, config.reward, 1, scalar=True),
            "policy": mlp(config.latent, config.policy, spec.action_dim),
            "value": Ensemble(config.value_heads, joint, config.value, 1),
        }
        if spec.terminates:
            components["termination"] = mlp(config.latent, config.termination, 1, scalar=True)
        self.components = nn.ModuleDict(components)
        self.register_buffer("observation_mean", torch.zeros(spec.observation_dim))
        self.register_buffer("observation_std", torch.ones(spec.observation_dim))
        self.register_buffer("reward_scale", torch.ones(()))

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.parameters()).dtype

    @property
    def can_terminate(self) -> bool:
        """Whether the model has a termination head."""
        return "termination" in self.components

    def encode(self, observation: Float[Tensor, "*M O"]) -> Float[Tensor, "*M Z"]:
        """Latent of an observation in sensor units."""
        if self.config.normalize_observations:
            observation = (observation - self.observation_mean) / self.observation_std
            observation = observation.clamp(-OBSERVATION_CLIP, OBSERVATION_CLIP)
        return self.components["encoder"](observation.to(self.dtype))

    def next(self, z: Float[Tensor, "*M Z"], action: Float[Tensor, "*M A"]) -> Float[Tensor, "*M Z"]:
        """Latent one decision later."""
        return self.components["dynamics"](_join(z, action))

    def reward(self, z: Float[Tensor, "*M Z"], action: Float[Tensor, "*M A"]) -> Float[Tensor, "*M"]:
        """Reward of the transition, in model units."""
        return self.components["reward"](_join(z, action)).squeeze(-1).float()

    def terminates(self, z: Float[Tensor, "*M Z"]) -> Float[Tensor, "*M"]:
        """Logit of the episode having ended on arrival in this latent."""
        return self.components["termination"](z).squeeze(-1).float()

    def q(self, z: Float[Tensor, "*M Z"], action: Float[Tensor, "*M A"]) -> Float[Tensor, "E *M"]:
        """Return from here on, in model units, by each member of the ensemble."""
        return self.components["value"](_join(z, action)).squeeze(-1).float()

    def value(self, z: Float[Tensor, "*M Z"], action: Float[Tensor, "*M A"]) -> Float[Tensor, "*M"]:
        """Least return over the ensemble, in model units."""
        return self.q(z, action).amin(0)

    def pi(self, z: Float[Tensor, "*M Z"]) -> Float[Tensor, "*M A"]:
        """Mean action of the policy prior, in [-1, 1]."""
        return torch.tanh(self.components["policy"](z))

    @torch.no_grad()
    def grow_reward_scale(self, factor: float) -> None:
        """Multiply the reward scale by a power of two and leave every prediction as it was.

        Args:
            factor: a power of two; the output layers of reward and value are divided by it.
        """
        self.reward_scale *= factor
        for parameter in self.scaled_parameters():
            parameter /= factor

    def scaled_parameters(self) -> list[nn.Parameter]:
        """Weights and biases of the output layers that are in model units."""
        reward, value = self.components["reward"], self.components["value"]
        assert isinstance(reward, nn.Sequential)
        assert isinstance(value, Ensemble)
        return [*reward[-1].parameters(), value.weights[-1], value.biases[-1]]


def parameter_shapes(config: ModelConfig, spec: EnvSpec) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters that a model of these widths has, by name; nothing is allocated."""
    with torch.device("meta"):
        return {name: tuple(parameter.shape) for name, parameter in WorldModel(config, spec).named_parameters()}


def _join(z: Tensor, action: Tensor) -> Tensor:
    return torch.cat([z, action.to(z.dtype)], dim=-1)
