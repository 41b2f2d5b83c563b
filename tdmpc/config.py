"""Frozen, typed settings; the command line and its help are made from these classes.

What the environment tells (dimensions, action repeat) lives in ``EnvSpec``. Preset
``reference`` is the published setting of TD-MPC (arXiv 2203.04955); where the default
differs, ``docs/algorithm.md`` gives the measurement that earned it.
"""

import dataclasses
import logging
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from tyro.conf import Positional, arg

Precision = Literal["float32", "bfloat16"]
Widths = tuple[int, ...]
PresetName = Literal["default", "reference"]
T = TypeVar("T")

log = logging.getLogger("tdmpc")


@dataclass(frozen=True)
class ModelConfig:
    """Hidden widths of each component, layer by layer: a pruned model differs only here."""

    latent: int = 50
    encoder: Widths = (256,)
    dynamics: Widths = (512, 512)
    reward: Widths = (512, 512)
    termination: Widths = (512, 512)
    """Built only for environments that can terminate."""
    policy: Widths = (512, 512)
    value: Widths = (512, 512)
    value_heads: int = 2
    """Members of the value ensemble; the planner and the targets take their minimum."""
    scale_rewards: bool = True
    """Learn rewards and values in units of the largest reward seen, rounded up to a power of two."""
    normalize_observations: bool = True
    """Standardise observations by their running mean and deviation, inside the encoder."""


@dataclass(frozen=True)
class Linear:
    """A value that goes from ``start`` to ``end`` in ``steps`` agent steps, then stays."""

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        """The value at an agent step."""
        progress = min(max(step / self.steps, 0.0), 1.0) if self.steps else 1.0
        return self.start + progress * (self.end - self.start)


@dataclass(frozen=True)
class PlannerConfig:
    """MPPI with policy trajectories (arXiv 2203.04955, section 3 and its code)."""

    horizon: int = 5
    samples: int = 512
    policy_trajectories: int = 25
    """Plans proposed by the policy prior, besides ``samples``."""
    elites: int = 64
    iterations: int = 6
    temperature: float = 0.5
    momentum: float = 0.1
    """Share of the old mean kept in each iteration."""
    max_std: float = 2.0
    std: Linear = Linear(0.5, 0.05, 25_000)
    """Least planning deviation and deviation of the exploration noise, over agent steps."""
    horizon_schedule: Linear = Linear(1, 5, 25_000)
    """Planning horizon over agent steps, capped by ``horizon``."""
    policy_std: float = 0.05
    """Deviation of the policy's actions in its trajectories and in the value targets."""
    policy_noise_clip: float = 0.3


@dataclass(frozen=True)
class LossConfig:
    """Objective and optimiser of the world model and the policy."""

    discount: float = 0.99
    horizon: int = 5
    """Transitions unrolled in an update."""
    rho: float = 0.5
    """Weight of each further step of the unroll."""
    consistency: float = 2.0
    reward: float = 0.5
    value: float = 0.1
    termination: float = 0.5
    learning_rate: float = 1e-3
    gradient_clip: float = 10.0
    target_rate: float = 0.01
    """Share of the online weights that moves into the target network."""
    target_period: int = 2
    """Updates between two moves of the target network."""
    consistency_width: int = 50
    """What the summed latent error is divided by: the initial latent width, so that pruning keeps its scale."""


@dataclass(frozen=True)
class ReplayConfig:
    """Prioritised sequence replay (arXiv 1511.05952)."""

    capacity: int = 1_000_000
    """Agent steps kept."""
    alpha: float = 0.6
    """Exponent of the priority; 0 samples uniformly."""
    beta: float = 0.4
    """Exponent of the importance weights."""


@dataclass(frozen=True)
class TrainConfig:
    """A training run."""

    env: Annotated[Positional[str], arg(metavar="ENV")]
    """Environment id: a Gymnasium id, ``module:Id-v0``, or the short name of a dm_control task."""
    seed: int = 0
    """Governs python, numpy, torch and the environment."""
    env_steps: int = 100_000
    """Length of the run in environment steps, action repeat included, as in published curves."""
    random_steps: int = 1_000
    """Agent steps of uniformly random actions before learning starts."""
    pretrain_updates: int | None = None
    """Updates made at the end of the random start; as many as its steps when not given."""
    updates_per_step: float = 1.0
    """Updates for each agent step."""
    batch_size: int = 512
    num_envs: int = 1
    """Environments stepped together, sharing one batched planner."""
    action_repeat: int | None = None
    """Environment steps for each decision; the published value of the domain when not given."""
    max_episode_steps: int | None = None
    """Environment steps after which an episode is cut; the environment's own time limit when not given."""
    terminates: bool | None = None
    """Whether episodes can end before their time limit; found out by random play when not given."""
    eval_every: int = 0
    """Environment steps between two evaluations; 0 for none."""
    eval_episodes: int = 10
    """Episodes of each evaluation, the one at the end included."""
    checkpoint_every: int = 10_000
    """Environment steps between two checkpoints."""
    device: str = "cpu"
    """Torch device, for example ``cpu`` or ``cuda``."""
    threads: int = 0
    """Threads of the tensor library; 0 for all cores. State it beside every timing."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Precision of the matrix products; ``auto`` is bfloat16 where the processor multiplies it natively: faster for
    wide models, not for narrow ones."""
    compile: bool = False
    """Compile the planner and the update: needs a C++ compiler and about a minute at the start, then is faster."""
    model: ModelConfig = field(default_factory=ModelConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)


def preset(name: PresetName, env_id: str) -> TrainConfig:
    """The settings of a preset for an environment.

    Args:
        name: ``default`` learns faster per minute on a CPU; ``reference`` has the published settings.
        env_id: canonical id; humanoid and dog have a larger latent and more planner iterations, as published.
    """
    return PRESETS[name](env_id)


def _reference(env_id: str) -> TrainConfig:
    latent, iterations = next((v for k, v in LARGE_BODIES.items() if env_id.startswith(k)), (50, 6))
    is_dog = env_id.startswith("dm_control/dog-")
    return TrainConfig(
        env=env_id,
        random_steps=5_000,
        batch_size=2048 if is_dog else 512,
        model=ModelConfig(latent=latent, scale_rewards=False, normalize_observations=False),
        planner=PlannerConfig(iterations=iterations),
        loss=LossConfig(consistency_width=latent, learning_rate=3e-4 if is_dog else 1e-3),
    )


def _default(env_id: str) -> TrainConfig:
    reference = _reference(env_id)
    width, goal_moves = (128, 128), env_id.startswith(MOVING_GOALS)
    std = reference.planner.std if goal_moves else Linear(0.5, 0.05, 5_000)
    discount = 0.95 if goal_moves else reference.loss.discount
    return dataclasses.replace(
        reference,
        random_steps=500,
        batch_size=256,
        model=ModelConfig(
            latent=reference.model.latent, dynamics=width, reward=width, termination=width, policy=width, value=width
        ),
        planner=dataclasses.replace(reference.planner, horizon=3, std=std, horizon_schedule=Linear(3, 3, 0)),
        loss=dataclasses.replace(reference.loss, discount=discount),
    )


LARGE_BODIES = {"dm_control/humanoid-": (100, 12), "dm_control/dog-": (100, 8)}
"""Latent width and planner iterations of the published setting for many-jointed bodies."""

MOVING_GOALS = ("dm_control/reacher-",)
"""Each episode has another goal, without a reward far from it: exploration is needed for as long as published, and a
lower discount, with which values rise steeply towards goals not met before (docs/algorithm.md)."""

PRESETS: dict[PresetName, Callable[[str], TrainConfig]] = {"default": _default, "reference": _reference}


class ConfigError(ValueError):
    """Settings that cannot work; the message names them and says what is expected."""


def check(config: TrainConfig) -> None:
    """Refuse settings that cannot work before anything is started.

    Raises:
        ConfigError: every problem, by the setting's name on the command line.
    """
    problems = [
        f"{flag} must be {expected}, got {_setting(config, flag)}"
        for expected, (holds, flags) in RANGES.items()
        for flag in flags.split()
        if not holds(_setting(config, flag))
    ]
    candidates = config.planner.samples + config.planner.policy_trajectories
    window = config.loss.horizon * config.num_envs
    least = {"--random-steps": config.loss.horizon, "--replay.capacity": window}
    problems += [
        f"{flag} must be at least {least[flag]} to hold a window of --loss.horizon, got {_setting(config, flag)}"
        for flag in least
        if _setting(config, flag) < least[flag]
    ]
    if config.planner.elites > candidates:
        problems.append(
            f"--planner.elites must be at most the {candidates} candidates of a plan, got {config.planner.elites}"
        )
    if not config.model.value:
        problems.append("--model.value needs at least one hidden layer")
    if problems:
        raise ConfigError("; ".join(problems))


def _setting(config: TrainConfig, flag: str) -> Any:
    """What an option is set to: ``--planner.max-std`` is ``config.planner.max_std``."""
    return operator.attrgetter(flag.removeprefix("--").replace("-", "_"))(config)


RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "positive": (
        lambda value: value > 0,
        "--env-steps --batch-size --num-envs --checkpoint-every --eval-episodes --planner.horizon --planner.samples "
        "--planner.iterations --planner.elites --planner.max-std --loss.horizon --loss.target-period "
        "--loss.learning-rate --loss.gradient-clip --loss.consistency-width --model.latent --model.value-heads",
    ),
    "0 or more": (
        lambda value: value >= 0,
        "--seed --threads --eval-every --updates-per-step --planner.policy-trajectories --planner.temperature "
        "--planner.policy-std --planner.policy-noise-clip --replay.alpha --replay.beta",
    ),
    "between 0 and 1": (lambda value: 0 < value < 1, "--loss.discount"),
    "from 0 to 1": (lambda value: 0 <= value <= 1, "--planner.momentum --loss.target-rate --loss.rho"),
    "positive where it is given": (lambda value: value is None or value > 0, "--action-repeat --max-episode-steps"),
    "0 or more where it is given": (lambda value: value is None or value >= 0, "--pretrain-updates"),
    "positive widths": (
        lambda widths: all(width > 0 for width in widths),
        "--model.encoder --model.dynamics --model.reward --model.termination --model.policy --model.value",
    ),
    "a schedule of at least one step": (
        lambda schedule: min(schedule.start, schedule.end) >= 1,
        "--planner.horizon-schedule",
    ),
    "a schedule of 0 or more": (lambda schedule: min(schedule.start, schedule.end) >= 0, "--planner.std"),
}


def to_json(config: Any) -> dict[str, Any]:
    """A config as JSON can hold it; ``from_json`` takes it back."""
    return dataclasses.asdict(config)


def from_json(kind: type[T], values: Mapping[str, Any]) -> T:
    """Rebuild a config from ``to_json``; settings that were added since then get their defaults.

    Settings of another version that this one does not have are left out, and named in the log.
    """
    hints = get_type_hints(kind)
    if foreign := sorted(values.keys() - hints.keys()):
        log.warning("settings of another version are ignored: %s of %s", ", ".join(foreign), kind.__name__)
    known = {name: value for name, value in values.items() if name in hints}
    return kind(**{name: _rebuild(hints[name], value) for name, value in known.items()})


def _rebuild(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_json(hint, value)
    return _tuples(value)


def _tuples(value: Any) -> Any:
    """JSON knows only lists: [["a", [2]]] -> (("a", (2,)),)."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
