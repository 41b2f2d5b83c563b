"""How episodes end where the environment does not tell: by playing at random."""

import logging
from typing import NamedTuple

import gymnasium as gym
import numpy as np

from tdmpc.env_faults import DIVERGED
from tdmpc.env_names import DM_CONTROL, UnsupportedEnvironment

USUAL_EPISODE_STEPS = 1000
"""Time limit in environment steps where episodes end but none is known: that of most registered environments."""

log = logging.getLogger(__name__)


class Seen(NamedTuple):
    """What random play came upon."""

    terminated: bool
    """Whether an episode terminated."""
    longest: int = 0
    """Decisions of the longest episode that came to an end."""


def probe(env: gym.Env, steps: int, *, until_any_end: bool = False, seed: int = 0) -> Seen:
    """Play at random until an episode terminates, or comes to any end, for at most so many decisions.

    Extreme actions, each held for 1 to 32 decisions, because independent draws average out: a
    car that must swing up a hill never leaves the valley.
    """
    random = np.random.default_rng(seed)
    action, hold, length, longest, ended = np.zeros(0), 0, 0, 0, True
    for _ in range(steps):
        if ended:
            env.reset(seed=int(random.integers(2**31)))
            length = 0
        if hold == 0:
            hold = 2 ** int(random.integers(6))
            action = random.choice(np.array([-1, 1], np.float32), size=env.action_space.shape)
        hold -= 1
        _, _, terminated, truncated, info = env.step(action)
        length, ended = length + 1, terminated or truncated
        if ended and DIVERGED not in info:
            longest = max(longest, length)
        if terminated or (longest and until_any_end):
            return Seen(terminated, longest)
    return Seen(False, longest)


def never_terminates(env_id: str, env: gym.Env) -> bool:
    """Whether a task of dm_control leaves what its base class says of terminations: that there are none."""
    task = getattr(env.unwrapped, "task", None) if env_id.startswith(DM_CONTROL) else None
    bases = {"get_termination": "dm_control.rl.control", "should_terminate_episode": "dm_control.composer.task"}
    return any(getattr(getattr(task, method, None), "__module__", None) == base for method, base in bases.items())


def usual_limit(env_id: str, seen: Seen, repeat: int, probe_steps: int) -> int:
    """Environment steps after which episodes are cut that end, but that nothing limits."""
    if not (seen.terminated or seen.longest):
        raise UnsupportedEnvironment(
            f"{env_id} has no time limit, and no episode came to an end in {probe_steps:,} decisions of random play: "
            "its training would show no return, and its evaluation would go on for ever. Say after how many steps "
            "an episode is cut: --max-episode-steps 1000, for example; or register it with max_episode_steps"
        )
    limit = max(USUAL_EPISODE_STEPS, seen.longest * repeat)
    log.warning(
        "%s has no time limit that is known: its episodes are cut after %s environment steps, where they have not "
        "ended before; --max-episode-steps sets another limit",
        *(env_id, f"{limit:,}"),
    )
    return limit
