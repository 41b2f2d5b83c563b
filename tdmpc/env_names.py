"""What environments are called: Gymnasium ids, a user's module, and dm_control through Shimmy, with short names."""

import difflib
import importlib
import os
import re
from contextlib import redirect_stdout
from fnmatch import fnmatchcase
from importlib.util import find_spec
from io import StringIO
from typing import NamedTuple

import gymnasium as gym

from tdmpc.env_faults import FAULTS, told
from tdmpc.rendering import prepare_rendering

DM_CONTROL = "dm_control/"
UNTRAINABLE = (
    "gymnasium.envs.toy_text.*",
    "gymnasium.envs.tabular.*",
    "gymnasium.envs.phys2d.*",
    "gymnasium.envs:",  # a function that says that MuJoCo v2 and v3 have moved
    "shimmy.*",
    "ale_py.*",
    "dm_control/compatibility-env-*",
    "dm_control/*_vision-*",
    "dm_control/Rodent*",
    "dm_control/CmuHumanoid[!G]*",  # all but GoToTarget see through a camera
    "dm_control/lqr-*",  # without a time limit, and random actions break the simulation
    "Acrobot-*",
    "CarRacing-*",
    "CartPole-*",
    "LunarLander-*",
    "MountainCar-*",
    "Pusher-v4",  # asks for mujoco<3
)
"""Entry points and ids of environments that are registered but cannot be learned: discrete actions,
pixels, or simulators that are gone."""


class UnsupportedEnvironment(ValueError):
    """The environment that was asked for is unknown, cannot be made, or is not one the agent can learn."""


class EnvName(NamedTuple):
    """What an environment is called."""

    id: str
    """Canonical Gymnasium id, for example ``dm_control/cartpole-swingup-v0``."""
    short: str | None
    """Short name of a dm_control task, for example ``cartpole-swingup``."""


def resolve(name: str) -> str:
    """The id with which ``name`` can be made, here and in another process.

    Takes a registered Gymnasium id (``Hopper-v5``), one that a module of the user registers
    (``module:Id-v0``; the module stays part of the id), a dm_control id
    (``dm_control/cartpole-swingup-v0``) or its short name (``cartpole-swingup``).

    Raises:
        UnsupportedEnvironment: nothing has this name, or its module cannot be imported.
    """
    module, colon, registered = name.rpartition(":")
    if colon:
        _import_module(module, name)
    if registered in gym.registry:
        return name
    has_dm_control = _register_dm_control()
    canonical = _short_names().get(name, name)
    if canonical not in gym.registry:
        raise UnsupportedEnvironment(_unknown(name, has_dm_control))
    return canonical


def available(pattern: str = "") -> list[EnvName]:
    """The registered environments that an agent can be trained on, sorted by id.

    ``pattern`` selects by id or short name, in any case: a glob where it has ``*``, ``?`` or
    ``[``, otherwise a part of the name. Nothing is constructed, so a listed environment of an
    unknown package may still be refused by ``make_env``.
    """
    _register_dm_control()
    wanted = pattern.lower() if re.search(r"[*?\[]", pattern) else f"*{pattern.lower()}*"
    short_names = {canonical: short for short, canonical in _short_names().items()}
    names = (EnvName(id, short_names.get(id)) for id in sorted(filter(_trainable, gym.registry)))
    return [name for name in names if any(fnmatchcase(part.lower(), wanted) for part in name if part)]


def _import_module(module: str, name: str) -> None:
    if not all(part.isidentifier() for part in module.split(".")):
        raise UnsupportedEnvironment(f"{name}: write a module as in `import`, package.module, got {module!r}")
    prepare_rendering()  # the module may import MuJoCo
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise UnsupportedEnvironment(
            f"{name}: cannot import module {module!r} ({error}). It must be importable from here and register "
            f"the environment when it is imported; if its file is in this folder, set PYTHONPATH=. and try again"
        ) from error
    except FAULTS as error:
        raise UnsupportedEnvironment(f"{name}: module {module!r} fails when it is imported: {told(error)}") from error


def _register_dm_control() -> bool:
    """Register the dm_control tasks (about a second, hence only on demand); False where not installed."""
    if find_spec("dm_control") is None or find_spec("shimmy") is None:
        return False
    prepare_rendering()
    try:
        with redirect_stdout(StringIO()):  # without labmaze (Python 3.13) it tells everybody that mazes fail
            gym.register_envs(importlib.import_module("shimmy"))
    except (ImportError, AttributeError, RuntimeError) as error:  # what a renderer raises that does not work
        chosen = os.environ.get("MUJOCO_GL", "not set")
        raise UnsupportedEnvironment(
            f"dm_control cannot be imported: {error}. It loads the renderer that MUJOCO_GL names ({chosen}): "
            f"unset it, or MUJOCO_GL=off does without pictures"
        ) from error
    return True


def _short_names() -> dict[str, str]:
    """``cartpole-swingup`` -> ``dm_control/cartpole-swingup-v0``, for all that are registered."""
    return {re.sub(r"-v\d+$", "", id.removeprefix(DM_CONTROL)): id for id in gym.registry if id.startswith(DM_CONTROL)}


def _unknown(name: str, has_dm_control: bool) -> str:
    module, colon, wanted = name.rpartition(":")
    names = {alias.lower(): env.short or module + colon + env.id for env in available() for alias in env if alias}
    matches = difflib.get_close_matches(wanted.lower(), names, n=4)
    close = " or ".join(dict.fromkeys(names[match] for match in matches))
    hints = [f"Did you mean {close}?" if close else "Nothing has a similar name."]
    hints += ["`tdmpc envs` lists what can be trained; an environment of your own is named module:Id-v0."]
    if not has_dm_control:
        hints += ["dm_control is not installed: pip install 'tdmpc[train]' (on Python 3.13 see the README)."]
    return f"unknown environment {name!r}. {' '.join(hints)}"


def _trainable(env_id: str) -> bool:
    entry_point = gym.registry[env_id].entry_point
    source = entry_point if isinstance(entry_point, str) else f"{getattr(entry_point, '__module__', '')}:"
    if source.startswith("gymnasium.envs.box2d.") and find_spec("Box2D") is None:
        return False
    return not any(fnmatchcase(name, known) for name in (env_id, source) for known in UNTRAINABLE)
