"""The training loop: act, store, learn, evaluate, save; and its exact continuation."""

import logging
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tdmpc import checkpoint, pages, resume
from tdmpc.actor import Actor
from tdmpc.agent import Agent, NonFiniteError
from tdmpc.checkpoint import prefixed
from tdmpc.config import TrainConfig
from tdmpc.dump import dumped
from tdmpc.env_faults import EnvironmentFault
from tdmpc.episodes import Episodes
from tdmpc.evaluation import EVALUATION_STREAM, Evaluation, evaluate
from tdmpc.metrics import Sink
from tdmpc.pages import Pages
from tdmpc.progress import Tally
from tdmpc.pruner import NoPruning, Pruner
from tdmpc.replay import ROWS, Replay
from tdmpc.rows import episode_row, evaluation_row
from tdmpc.spec import Batch, EnvSpec
from tdmpc.vector_env import Environments, Transition

log = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """The user asked to stop; everything has been saved, and the message says how to go on."""


class Trainer:
    """Owns everything that a run is made of. ``run`` trains; ``state`` and ``restore`` make it resumable."""

    def __init__(
        self, config: TrainConfig, spec: EnvSpec, folder: Path, sink: Sink, pruner: Pruner | None = None
    ) -> None:
        self.spec, self.folder, self.sink = spec, folder, sink
        self.pruner = pruner or NoPruning()
        if config.threads:
            torch.set_num_threads(config.threads)
        _seed_everything(config.seed)
        self.agent = Agent(config, spec)
        self.config = self.agent.config
        """As at first: a pruned agent has narrower widths in its own."""
        self.actor = Actor(self.agent, lanes=config.num_envs, seed=config.seed + 1)
        self.pruner.attach(self.agent)
        self.envs = Environments(
            spec.id, num_envs=config.num_envs, seed=config.seed, perturb=config.perturb, **spec.options
        )
        self.replay = Replay(
            config.replay,
            observation_dim=spec.observation_dim,
            action_dim=spec.action_dim,
            horizon=config.loss.horizon,
            lanes=config.num_envs,
            seed=config.seed + 2,
        )
        self.pages: Pages = {}
        """Files of the run folder that hold the rows of the replay, as they were last saved or restored."""
        self.exploration = np.random.default_rng(config.seed + 3)
        self.observations = self.envs.reset()
        self.reset_actor(np.ones(config.num_envs, dtype=bool))
        self.agent_steps = 0
        self.evaluated_at = 0
        self.episodes = Episodes(config.num_envs)
        self.tally = Tally()
        self.wall_s = 0.0
        self.cpu_offset = -_cpu_s()
        self.stop_requested = False

    @property
    def env_steps(self) -> int:
        """Environment steps so far, action repeat included."""
        return self.agent_steps * self.spec.action_repeat

    @property
    def cpu_s(self) -> float:
        """Processor time of this run in seconds, that of its earlier processes and of compilers included."""
        return self.cpu_offset + _cpu_s()

    # The loop --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end of the run.

        Raises:
            Interrupted: ``stop_requested`` was set; a checkpoint has been written.
            NonFiniteError: what was not finite, and when; a dump has been written.
            EnvironmentFault: what failed in the environment, and when; a dump has been written.
            CheckpointError: a checkpoint could not be written.
        """
        started = time.perf_counter() - self.wall_s
        if self.agent_steps == 0:
            self.save()
        try:
            self._digest()  # what an interruption left undone
            while self.env_steps < self.config.env_steps:
                self._decide()
                self._digest()
                self.wall_s = time.perf_counter() - started
                self.sink.progress(self.env_steps)
                if self._crossed(self.config.checkpoint_every):
                    self.save()
            self.save()
        except Interrupted:
            self.save()
            raise

    def replace_agent(self, agent: Agent) -> None:
        """Go on with another agent of the same run, for example a smaller one."""
        self.agent = self.actor.agent = agent
        self.pruner.attach(agent)

    def _digest(self) -> None:
        """Learn and evaluate as much as the steps so far ask for."""
        self._learn()
        self.pruner.between_updates(self)
        self._evaluate_if_due()

    def _decide(self) -> None:
        with self.tally.timer("plan"):
            actions = self._actions()
        with self.tally.timer("environment"):
            transition = self._step(actions)
        real = transition.real
        self.replay.add(
            self.observations,
            actions,
            transition.rewards,
            transition.terminated,
            transition.truncated,
            transition.observations,
            real=real,
        )
        if real.any():
            growth = self.agent.observe(
                torch.from_numpy(transition.observations[real]), torch.from_numpy(transition.rewards[real])
            )
            self.replay.rescale_priorities(1 / growth)
        self.agent_steps += self.config.num_envs
        self.tally.decisions += self.config.num_envs
        self.episodes.add(transition, self.spec, env_steps=self.env_steps)
        self.observations = transition.observations
        if transition.ended.any():
            self._finish(transition.ended)

    def _actions(self) -> np.ndarray:
        if self.agent_steps < self.config.random_steps:
            shape = (self.config.num_envs, self.spec.action_dim)
            random = self.exploration.uniform(-1, 1, shape).astype(np.float32)
            return self.actor.commit(torch.from_numpy(random)).numpy()
        observations = torch.from_numpy(self.observations)
        try:
            return self.actor.act(observations, step=self.agent_steps, explore=True).numpy()
        except NonFiniteError as error:
            raise dumped(self, error) from error

    def _step(self, actions: np.ndarray) -> Transition:
        with self._dumping(actions=actions):
            transition = self.envs.step(actions)
            self.episodes.count_divergences(transition, env_id=self.spec.id, env_steps=self.env_steps)
        return transition

    def _finish(self, ended: np.ndarray) -> None:
        for lane in np.flatnonzero(ended):
            self.episodes.ended += 1
            self.sink.log(episode_row(self, int(lane)))
        self.tally = Tally()
        self.episodes.start(ended)
        with self._dumping():
            self.observations = self.envs.start(ended)
        self.reset_actor(ended)

    def reset_actor(self, started: np.ndarray) -> None:
        """Tell the actor of episodes that start, and with which delay."""
        self.actor.reset(torch.from_numpy(started), torch.from_numpy(self.envs.delays(self.config.delay)))

    def _learn(self) -> None:
        due = self._updates_due()
        while self.agent.updates < due and self.replay.windows:
            with self.tally.timer("replay"):
                batch = self.replay.sample(self.config.batch_size).to(self.agent.device)
            with self.tally.timer("update"):
                self._update(batch)
            self._stop_if_asked()
        self._stop_if_asked()

    def _updates_due(self) -> int:
        """Updates that should have been made by now: 1,000 random steps, then one a step -> 1,000 + steps since."""
        since = self.agent_steps - self.config.random_steps
        if since < 0:
            return 0
        pretrain = self.config.pretrain_updates
        return (self.config.random_steps if pretrain is None else pretrain) + int(since * self.config.updates_per_step)

    def _update(self, batch: Batch) -> None:
        try:
            update = self.agent.update(batch)
        except NonFiniteError as error:
            raise dumped(self, error, prefixed("batch", batch.tensors())) from error
        self.replay.update_priorities(batch.indices, update.priorities.cpu().numpy())
        self.tally.add(update.metrics)

    def _evaluate_if_due(self) -> None:
        every = self.config.eval_every
        if self.env_steps >= self.config.env_steps:
            return  # the final evaluation is at hand
        if every and self.env_steps // every > self.evaluated_at // every:
            self.sink.log(evaluation_row(self, self.evaluate(self.config.curve_episodes or self.config.eval_episodes)))
            self.evaluated_at = self.env_steps

    def evaluate(self, episodes: int, *, record: bool = False) -> Evaluation:
        """Play episodes without exploration; training is not disturbed by it."""
        with self._dumping():
            return evaluate(
                self.agent,
                step=self.agent_steps,
                episodes=episodes,
                seed=self.config.seed + EVALUATION_STREAM,
                record=record,
                between_decisions=self._stop_if_asked,
            )

    def _crossed(self, every: int) -> bool:
        """Whether the last decision reached or passed a multiple of ``every``: counts need not divide."""
        before = self.env_steps - self.config.num_envs * self.spec.action_repeat
        return self.env_steps // every > before // every

    def _stop_if_asked(self) -> None:
        if self.stop_requested:
            raise Interrupted(f"stopped and saved. Go on with: tdmpc train --resume {self.folder}")

    # What must not happen --------------------------------------------------------------------------------------

    @contextmanager
    def _dumping(self, **evidence: np.ndarray) -> Iterator[None]:
        """Save everything, and evidence, where the environment fails."""
        try:
            yield
        except EnvironmentFault as error:
            fault = EnvironmentFault(f"{error}, at environment step {self.env_steps:,}")
            found = {f"fault/{name}": torch.from_numpy(values) for name, values in evidence.items()}
            raise dumped(self, fault, found) from error

    # State -----------------------------------------------------------------------------------------------------

    def save(self) -> Path:
        """Write a checkpoint from which the run goes on exactly."""
        tensors, meta = self.state()
        known = pages.unchanged(self.pages, self.replay.changed)
        saved = checkpoint.save(self.folder, tensors, meta, paged=[f"replay/{name}" for name in ROWS], known=known)
        self.is_saved_in(saved.pages)
        self.sink.artifact(saved.path, self.env_steps)
        return saved.path

    def is_saved_in(self, known: Pages) -> None:
        """The rows of the replay are in these files."""
        self.pages, self.replay.changed[:] = known, False

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything the run's future depends on: tensors, and what JSON holds."""
        return resume.state(self)

    def restore(self, saved: checkpoint.Checkpoint) -> str:
        """Go on from a checkpoint of a run with the same config, whatever its widths; tells what was restored."""
        return resume.restore(self, saved)


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _cpu_s() -> float:
    """Of this process and of those that it has waited for; a process may train several runs."""
    return sum(os.times()[:4])
