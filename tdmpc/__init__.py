"""TD-MPC: a latent world model, the planner that uses it, and everything needed to train them.

    from tdmpc import evaluate, export, prune, train

    run = train("cartpole-swingup", env_steps=24_000)    # a run folder
    small = prune(run, target=0.75)                      # another one
    print(evaluate(small, episodes=5).return_mean)
    export(small, "bundle")                              # for ``tdmpc.deploy.Controller``

These names are loaded when they are first used, so that ``import tdmpc`` needs nothing: a robot has no PyTorch.

``tdmpc.compression`` prunes, ``tdmpc.deploy`` brings agents to robots, ``tdmpc.scripts`` is the command line. In the
repository they are folders of their own; links inside this one lead to them.
"""

import importlib
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tdmpc.compression.config import PruneConfig
    from tdmpc.config import TrainConfig
    from tdmpc.runs import load_agent
    from tdmpc.scripts.evaluate import evaluate
    from tdmpc.scripts.export import export
    from tdmpc.scripts.prune import prune
    from tdmpc.scripts.train import train

    __version__: str

__all__ = ["PruneConfig", "TrainConfig", "__version__", "evaluate", "export", "load_agent", "prune", "train"]

HOME = {
    "PruneConfig": "tdmpc.compression.config",
    "TrainConfig": "tdmpc.config",
    "evaluate": "tdmpc.scripts.evaluate",
    "export": "tdmpc.scripts.export",
    "load_agent": "tdmpc.runs",
    "prune": "tdmpc.scripts.prune",
    "train": "tdmpc.scripts.train",
}
"""Where each name is defined."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("tdmpc")
    if name not in HOME:
        raise AttributeError(f"module 'tdmpc' has no attribute {name!r}: there are {', '.join(__all__)}")
    if find_spec("torch") is None:
        raise ImportError(f"tdmpc.{name} needs PyTorch and the simulators: pip install 'tdmpc[train]'")
    return getattr(importlib.import_module(HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
