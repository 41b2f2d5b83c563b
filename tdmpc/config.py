"""Frozen, typed settings, each with its bounds; the command line and its help are made from these classes.

What the environment tells (dimensions, action repeat) lives in ``EnvSpec``; ``presets`` chooses settings by it.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError
from tyro.conf import Positional, arg

Whole = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Spread = Annotated[float, Field(ge=0, lt=1)]
Width = Annotated[int, Field(ge=1, le=65_536)]
Widths = tuple[Width, ...]
Precision = Literal["float32", "bfloat16"]
T = TypeVar("T")

log = logging.getLogger("tdmpc")


@dataclass(frozen=True)
class ModelConfig:
    """Hidden widths of each component, layer by layer: a pruned model differs only here."""

    latent: Width = 50
    """Coordinates of the latent."""
    encoder: Widths = (256,)
    """From the observation to the latent."""
    dynamics: Widths = (512, 512)
    """From latent and action to the next latent."""
    reward: Widths = (512, 512)
    """From latent and action to the reward."""
    termination: Widths = (512, 512)
    """Built only for environments that can terminate."""
    policy: Widths = (512, 512)
    """From the latent to the action that the policy proposes."""
    value: Annotated[Widths, Field(min_length=1)] = (512, 512)
    """From latent and action to the value; each head has these widths."""
    value_heads: Count = 2
    """Members of the value ensemble; the planner and the targets take their minimum."""
    scale_rewards: bool = True
    """Learn rewards and values in units of the largest reward seen, rounded up to a power of two."""
    normalize_observations: bool = True
    """Standardise observations by their running mean and deviation, inside the encoder."""


@dataclass(frozen=True)
class Linear:
    """A value that goes from ``start`` to ``end`` in ``steps`` agent steps, then stays."""

    start: Finite
    end: Finite
    steps: Whole

    def __call__(self, step: int) -> float:
        """The value at an agent step."""
        progress = min(max(step / self.steps, 0.0), 1.0) if self.steps else 1.0
        return self.start + progress * (self.end - self.start)


@dataclass(frozen=True)
class PlannerConfig:
    """MPPI with policy trajectories (arXiv 2203.04955, section 3 and its code)."""

    horizon: Count = 5
    """Decisions in a plan, at most."""
    samples: Count = 512
    """Plans sampled in an iteration."""
    policy_trajectories: Whole = 25
    """Plans proposed by the policy prior, besides ``samples``."""
    elites: Count = 64
    """Best plans of an iteration, from which the next one samples."""
    iterations: Count = 6
    """Rounds of sampling and choosing."""
    temperature: NonNegative = 0.5
    """Elites weigh exp(temperature x value), as in the published code: a higher one is greedier, 0 counts all alike."""
    momentum: Share = 0.1
    """Share of the old mean kept in each iteration."""
    max_std: Positive = 2.0
    """Deviation with which a plan's first iteration samples, in half ranges of the actuator."""
    std: Linear = Linear(0.5, 0.05, 25_000)
    """Exploration over agent steps: the deviation of the noise on actions, and the least deviation of a plan."""
    horizon_schedule: Linear = Linear(1, 5, 25_000)
    """Planning horizon over agent steps, capped by ``horizon``."""
    policy_std: NonNegative = 0.05
    """Deviation of the policy's actions in its trajectories and in the value targets."""
    policy_noise_clip: NonNegative = 0.3
    """Largest noise on the policy's actions, in half ranges of the actuator."""
    max_change: Positive | None = None
    """Rate limit: largest change of an action from one decision to the next, in half ranges of the actuator; no limit
    when not given. An episode begins from the middle of the range."""

    def horizon_at(self, step: int) -> int:
        """The planning horizon at an agent step, in decisions."""
        return min(self.horizon, int(self.horizon_schedule(step)))


@dataclass(frozen=True)
class LossConfig:
    """Objective and optimiser of the world model and the policy."""

    discount: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """What a reward one decision later is worth."""
    horizon: Count = 5
    """Transitions unrolled in an update."""
    rho: Share = 0.5
    """Weight of each further step of the unroll."""
    consistency: NonNegative = 2.0
    """Weight of the error of predicted latents."""
    reward: NonNegative = 0.5
    """Weight of the error of predicted rewards."""
    value: NonNegative = 0.1
    """Weight of the error of predicted values."""
    termination: NonNegative = 0.5
    """Weight of the error of predicted terminations."""
    learning_rate: Positive = 1e-3
    """Of both Adam optimisers."""
    gradient_clip: Positive = 10.0
    """Largest norm of a gradient."""
    target_rate: Share = 0.01
    """Share of the online weights that moves into the target network."""
    target_period: Count = 2
    """Updates between two moves of the target network."""
    consistency_width: Count | None = None
    """What the summed latent error is divided by. An agent sets it to its first latent width, so that pruning keeps the
    scale of the loss."""


@dataclass(frozen=True)
class ReplayConfig:
    """Prioritised sequence replay (arXiv 1511.05952)."""

    capacity: Count = 1_000_000
    """Agent steps kept."""
    alpha: NonNegative = 0.6
    """Exponent of the priority; 0 samples uniformly."""
    beta: NonNegative = 0.4
    """Exponent of the importance weights."""


@dataclass(frozen=True)
class PerturbConfig:
    """Noise, faults and other dynamics, as a robot has them (arXiv 2003.11881). Each episode draws them from its seed.

    The agent is not told. The replay holds the actions that the agent chose, without their noise.
    """

    observation_delay: Whole = 0
    """Decisions by which each observation is late."""
    observation_noise: NonNegative = 0.0
    """Deviation of Gaussian noise on each reading, in the sensor's own units."""
    dropped_sensors: Share = 0.0
    """Chance for each reading and decision that it begins to read 0."""
    stuck_sensors: Share = 0.0
    """Chance for each reading and decision that it begins to repeat what it read last."""
    fault_decisions: Count = 1
    """Decisions for which a reading stays dropped or stuck."""
    action_noise: NonNegative = 0.0
    """Deviation of Gaussian noise on each action, in half ranges of the actuator."""
    masses: Spread = 0.0
    """The mass and inertia of each body are multiplied by a factor drawn from [1 - x, 1 + x]. This option and those
    below work only with MuJoCo."""
    friction: Spread = 0.0
    """One factor for the friction of all contacts and joints: MuJoCo takes the larger friction of two bodies."""
    damping: Spread = 0.0
    """A factor for the damping of each joint."""
    gains: Spread = 0.0
    """A factor for the force of each motor, servo or muscle."""


@dataclass(frozen=True)
class TrainConfig:
    """A training run."""

    env: Annotated[Positional[str], arg(metavar="ENV")]
    """Environment id: a Gymnasium id, ``module:Id-v0``, or the short name of a dm_control task."""
    seed: Annotated[int, Field(ge=0, lt=2**62)] = 0
    """Governs python, numpy, torch and the environment."""
    env_steps: Count = 100_000
    """Length of the run in environment steps, action repeat included, as in published curves."""
    random_steps: Count = 1_000
    """Agent steps of uniformly random actions before learning starts."""
    pretrain_updates: Whole | None = None
    """Updates made at the end of the random start; as many as the random start has agent steps when not given."""
    updates_per_step: NonNegative = 1.0
    """Updates for each agent step."""
    batch_size: Count = 512
    """Windows in an update."""
    num_envs: Count = 1
    """Environments stepped together, sharing one batched planner."""
    action_repeat: Count | None = None
    """Environment steps for each decision; the published value of the domain when not given."""
    max_episode_steps: Count | None = None
    """Environment steps after which an episode is cut; the environment's own time limit when not given."""
    delay: Annotated[tuple[Whole, ...], Field(min_length=1, max_length=2)] = (0,)
    """Decisions between an observation and the moment at which its action is applied. Two numbers are the least and the
    largest delay: each episode draws one between them."""
    terminates: bool | None = None
    """Whether episodes can end before their time limit; random play finds this out when not given."""
    eval_every: Whole = 0
    """Environment steps between two evaluations; 0 for none. ``tdmpc train`` makes ten in a run of 20,000 or more."""
    eval_episodes: Count = 10
    """Episodes of the evaluation at the end, and of the others where the next setting is not given."""
    curve_episodes: Count | None = None
    """Episodes of each evaluation before the end."""
    checkpoint_every: Count = 10_000
    """Environment steps between two checkpoints."""
    device: str = "cpu"
    """Torch device, for example ``cpu`` or ``cuda``."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """Threads of the tensor library; 0 for all cores. State it beside every timing."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Precision of the matrix products; ``auto`` is bfloat16 where the machine multiplies it natively (AMX, AVX-512
    BF16, CUDA) and layers are wide or compiled. The run keeps what was chosen."""
    compile: bool = False
    """Compile the planner and the update. This needs a C++ compiler, and one or two minutes the first time. ``tdmpc
    train`` does it where a run is long enough to win that back."""
    model: ModelConfig = field(default_factory=ModelConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    perturb: PerturbConfig = field(default_factory=PerturbConfig)


class ConfigError(ValueError):
    """Settings that cannot work; the message names them and says what is expected."""


def to_json(config: Any) -> dict[str, Any]:
    """A config as JSON can hold it; ``from_json`` takes it back."""
    return dataclasses.asdict(config)


def from_json(kind: type[T], values: Mapping[str, Any]) -> T:
    """Rebuild a config from ``to_json``; settings that were added since then get their defaults.

    Settings of another version that this one does not have are left out, and named in the log.

    Raises:
        ConfigError: a value is missing, of another type, or out of bounds; all of them are named.
    """
    _tell_foreign(kind, values)
    try:  # by way of JSON: a list becomes a tuple, and nothing else becomes anything else
        return _reader(kind).validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError("; ".join(map(_problem, error.errors()))) from error


def _tell_foreign(kind: type, values: Mapping[str, Any]) -> None:
    hints = get_type_hints(kind)
    if foreign := sorted(values.keys() - hints.keys()):
        log.warning("settings of another version are ignored: %s of %s", ", ".join(foreign), kind.__name__)
    for name, hint in hints.items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(values.get(name), Mapping):
            _tell_foreign(hint, values[name])


_reader = cache(TypeAdapter)

WORDS = {"Input should": "must", "greater than or equal to": "at least", "less than or equal to": "at most"}
"""How a setting's message says what pydantic's does."""


def _problem(error: Mapping[str, Any]) -> str:
    name = ".".join(part for part in error["loc"] if isinstance(part, str))
    if error["type"] == "missing":
        return f"{_flag(name)} is missing"
    message = error["msg"]
    for pydantics, ours in WORDS.items():
        message = message.replace(pydantics, ours)
    return f"{_flag(name)} {message}, got {error['input']!r}"


def _flag(name: str) -> str:
    """``planner.max_std`` is ``--planner.max-std`` on the command line."""
    return "--" + name.replace("_", "-")
