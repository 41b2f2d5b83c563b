"""``tdmpc play``: watch agents and controllers at work, push the robot, switch what decides."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from tyro.conf import Positional

from tdmpc.actor import Actor
from tdmpc.agent import Agent
from tdmpc.config import ConfigError
from tdmpc.deploy import Controller, bundle
from tdmpc.deploy.bundle import deactuate
from tdmpc.envs import make_env
from tdmpc.evaluation import Policy, decide
from tdmpc.perturbation import physics
from tdmpc.runs import load_agent
from tdmpc.scripts import ranges
from tdmpc.scripts.rungs import options_of
from tdmpc.spec import EnvOptions
from tdmpc.video import write_video

PLANS, SPREAD = 24, 0.3
"""Plans in a fan, and how far they lie about the agent's own, in half ranges of the actuators."""
PUSH_S = 0.1
"""How long a push lasts."""
GRAVITY = 9.81
SIDE = 140
"""Pixels of the fan's picture, which is a square in the corner of the film."""
SPACE, ENTER, HOME = 32, 257, 268
"""Keys as GLFW counts them; all letters are the viewer's own."""
KEYS = "In the window: SPACE pushes the robot, ENTER switches to what decides next, HOME starts a new episode"


@dataclass(frozen=True)
class PlayArgs:
    """Watch a run's agent or a bundle in MuJoCo's viewer; without a display, or with --video, as a film.

    A film of an agent has a fan in its corner: the return that the model predicts over the next decisions, for the
    agent's own plan (orange) and for plans about it.
    """

    subject: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder or controller bundle."""
    agents: tuple[Path, ...] = ()
    """More runs or bundles of the same environment, to switch to: a pruned one, for example."""
    decide: tuple[Policy, ...] = ("planner",)
    """What decides, one after the other: ``planner``, ``prior``. A bundle always plans."""
    seconds: float = 10.0
    """Of each of them in a film."""
    seed: int = 0
    """Of episodes, plans and pushes."""
    push: float | None = None
    """Seconds from one push to the next; MuJoCo's robots only."""
    strength: float = 1.0
    """Force of a push, in the robot's weight."""
    video: Path | None = None
    """Film to write; play.mp4 when there is no display."""


@dataclass(frozen=True)
class Decider:
    """Whoever decides: takes flat observations, gives actions in [-1, 1]."""

    name: str
    env_id: str
    options: EnvOptions
    period_s: float
    reset: Callable[[], None]
    act: Callable[[np.ndarray], np.ndarray]
    fan: Callable[[np.ndarray], np.ndarray]
    """Predicted returns of plans, ``Float32[N H+1]``; the first is the plan itself. None of them where N is 0."""


class Stage:
    """An environment in which deciders take turns; keys act upon it."""

    def __init__(self, env: gym.Env, deciders: Sequence[Decider], args: PlayArgs) -> None:
        self.env, self.deciders, self.args = env, deciders, args
        self.random = np.random.default_rng(args.seed)
        self.model, self.data = physics(env)
        self.turn, self.pushing = 0, 0.0
        self.observation: Any = None
        self.keys: deque[int] = deque()

    @property
    def decider(self) -> Decider:
        """Whose turn it is."""
        return self.deciders[self.turn % len(self.deciders)]

    def key(self, code: int) -> None:
        """Keep a key of the viewer, whose thread calls this, for the next decision."""
        self.keys.append(code)

    def switch(self) -> None:
        """The next one decides, from here."""
        self.turn += 1
        self.decider.reset()

    def restart(self) -> None:
        """A new episode at the next decision."""
        self.observation = None

    def push(self) -> None:
        """Push a body of the robot sideways, upwards or downwards for ``PUSH_S``."""
        weight = GRAVITY * float(self.model.body_mass.sum())
        direction = self.random.normal(size=3)
        moving = np.flatnonzero(self.model.body_dofnum)
        self.data.xfrc_applied[self.random.choice(moving), :3] = (
            self.args.strength * weight * direction / np.linalg.norm(direction)
        )
        self.pushing = PUSH_S

    def decide(self) -> None:
        """One decision of whose turn it is, as the keys before it say."""
        actions = {SPACE: self.push, ENTER: self.switch, HOME: self.restart}
        while self.keys:
            actions.get(self.keys.popleft(), lambda: None)()
        if self.observation is None:
            self.observation, _ = self.env.reset(seed=int(self.random.integers(2**31)))
            self.decider.reset()
        self.observation, _, terminated, truncated, _ = self.env.step(self.decider.act(self.observation))
        self.pushing -= self.decider.period_s
        if self.data is not None and self.pushing <= 0:
            self.data.xfrc_applied[:] = 0
        if terminated or truncated:
            self.restart()


def main(arguments: list[str]) -> int:
    """Parse, then show."""
    args = tyro.cli(PlayArgs, args=arguments, prog="tdmpc play")
    ranges.check(args, ConfigError, positive=["seconds", "push", "strength"], not_negative=["seed"])
    deciders = [
        _decider(path, policy, args.seed) for path, policy in product((args.subject, *args.agents), args.decide)
    ]
    if strangers := [each.name for each in deciders if each.env_id != deciders[0].env_id]:
        raise ConfigError(f"{strangers[0]} was made for another environment than {args.subject}: choose other --agents")
    displayed = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    filmed = args.video or (None if displayed else Path("play.mp4"))
    with closing(make_env(deciders[0].env_id, render=filmed is not None, **deciders[0].options)) as env:
        env.reset(seed=args.seed)
        stage = Stage(env, deciders, args)
        if stage.model is None and (filmed is None or args.push is not None):
            raise ConfigError(f"{deciders[0].env_id} has no MuJoCo model: give --video, and no --push")
        if filmed is None:
            _watch(stage)
        else:
            write_video(filmed, _film(stage), 1 / deciders[0].period_s)
            print(filmed)
    return 0


def _film(stage: Stage) -> Iterator[np.ndarray]:
    """Pictures of each decider in turn."""
    args, largest = stage.args, 1e-9
    for number in range(len(stage.deciders)):
        if number:
            stage.switch()
        print(f"from {number * args.seconds:g} s: {stage.decider.name}")
        for decision in range(round(args.seconds / stage.decider.period_s)):
            if args.push and decision and decision % max(round(args.push / stage.decider.period_s), 1) == 0:
                stage.push()
            stage.decide()
            picture, observation = np.array(stage.env.render()), stage.observation
            fan = stage.decider.fan(observation) if observation is not None else np.zeros((0, 2))
            largest = max(largest, np.abs(fan).max(initial=0.0))
            yield draw_fan(picture, fan / largest)


def _watch(stage: Stage) -> None:
    """MuJoCo's viewer in real time, until it is closed."""
    from mujoco import viewer

    print(KEYS)
    pushed = time.monotonic()
    with viewer.launch_passive(stage.model, stage.data, key_callback=stage.key) as window:
        while window.is_running():
            begun = time.monotonic()
            if stage.args.push and begun - pushed >= stage.args.push:
                pushed = begun
                stage.push()
            with window.lock():
                stage.decide()
            window.sync()
            time.sleep(max(begun + stage.decider.period_s - time.monotonic(), 0.0))


def draw_fan(picture: np.ndarray, fan: np.ndarray) -> np.ndarray:
    """A picture with a fan in its corner: returns in [-1, 1] upwards, decisions to the right, the plan in orange."""
    side = min(SIDE, *picture.shape[:2])
    if not len(fan) or side < 8:
        return picture
    corner = picture[-side:, :side]
    corner[:] = corner // 4 + 180
    columns = np.arange(4, side - 4)
    for number in reversed(range(len(fan))):
        heights = np.interp(columns, np.linspace(4, side - 5, fan.shape[1]), fan[number])
        rows = np.round((side - 9) * (0.5 - np.clip(heights, -1, 1) / 2)).astype(int) + 4
        corner[rows, columns] = corner[rows - 1, columns] = (230, 120, 0) if number == 0 else (90, 110, 150)
    return picture


def _decider(path: Path, policy: Policy, seed: int) -> Decider:
    return _bundle(path, seed) if (path / bundle.MANIFEST).exists() else _agent(path, policy, seed)


def _bundle(path: Path, seed: int) -> Decider:
    controller = Controller.load(path)
    described, environment = controller.bundle, controller.bundle.manifest["environment"]

    def act(observation: np.ndarray) -> np.ndarray:
        return deactuate(controller.act(described.readings(observation)), described.low, described.high)

    return Decider(
        name=f"the bundle {path}",
        env_id=environment["id"],
        options=options_of(described),
        period_s=(environment["control_period_ms"] or 1000 / 30) / 1000,
        reset=lambda: controller.reset(seed=seed),
        act=act,
        fan=lambda _: np.zeros((0, 2)),
    )


def _agent(path: Path, policy: Policy, seed: int) -> Decider:
    agent, meta = load_agent(path, compile=False)
    if agent.config.threads:
        torch.set_num_threads(agent.config.threads)
    actor = Actor(agent, lanes=1, seed=seed)
    everyone = torch.ones(1, dtype=torch.bool)

    def act(observation: np.ndarray) -> np.ndarray:
        return decide(actor, torch.from_numpy(observation)[None], meta["agent_steps"], policy)[0].numpy()

    return Decider(
        name=f"the {'planner' if policy == 'planner' else 'policy'} of {path}",
        env_id=agent.spec.id,
        options=agent.spec.options,
        period_s=(agent.spec.control_period_ms or 1000 / 30) / 1000,
        reset=lambda: actor.reset(everyone, torch.tensor([max(agent.config.delay)])),
        act=act,
        fan=lambda observation: _fan(agent, actor, observation) if policy == "planner" else np.zeros((0, 2)),
    )


@torch.no_grad()
def _fan(agent: Agent, actor: Actor, observation: np.ndarray) -> np.ndarray:
    """Returns that the model predicts, ``Float32[N H+1]``, of the actor's warm start and of plans about it."""
    model, mean = agent.model, actor.mean[:, 0]
    noise = SPREAD * torch.randn(len(mean), PLANS, mean.shape[1], generator=torch.Generator().manual_seed(0))
    noise[:, 0] = 0
    actions = (mean[:, None] + noise.to(mean.device)).clamp(-1, 1)
    latents = actor.ahead(model, torch.from_numpy(observation)[None].to(agent.device)).expand(PLANS, -1)
    returns = [torch.zeros(PLANS, device=agent.device)]
    for decided in actions:
        returns.append(returns[-1] + model.reward(latents, decided))
        latents = model.next(latents, decided)
    return torch.stack(returns, 1).float().cpu().numpy()
