"""The training loop: act, store, learn, evaluate, save; and its exact continuation."""

import dataclasses
import logging
import os
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from tdmpc import checkpoint, pages
from tdmpc.actor import Actor
from tdmpc.agent import Agent, NonFiniteError
from tdmpc.checkpoint import below, prefixed
from tdmpc.config import ModelConfig, TrainConfig, from_json, to_json
from tdmpc.evaluation import EVALUATION_STREAM, Evaluation, evaluate
from tdmpc.guard import EnvironmentFault
from tdmpc.metrics import Sink
from tdmpc.pages import Pages
from tdmpc.progress import Window
from tdmpc.pruner import NoPruning, Pruner
from tdmpc.replay import ROWS, Replay
from tdmpc.spec import Batch, EnvSpec
from tdmpc.vector_env import Environments, Transition

Fault = TypeVar("Fault", NonFiniteError, EnvironmentFault)

DIVERGENCES_IN_A_ROW = 10
"""Episodes of a lane, one after the other, that diverge before the run stops: little can be learned from such."""

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
        self._reset_actor(np.ones(config.num_envs, dtype=bool))
        self.agent_steps = 0
        self.evaluated_at = 0
        self.episodes = 0
        self.diverged = 0  # episodes
        self.diverged_in_a_row = np.zeros(config.num_envs, dtype=np.int64)
        self.warned = False  # of terminations that the agent does not know of
        self.returns = np.zeros(config.num_envs)
        self.lengths = np.zeros(config.num_envs, dtype=np.int64)
        self.window = Window()
        self.wall_s = 0.0
        self.cpu_before = 0.0
        self.stop_requested = False

    @property
    def env_steps(self) -> int:
        """Environment steps so far, action repeat included."""
        return self.agent_steps * self.spec.action_repeat

    @property
    def cpu_s(self) -> float:
        """Processor time of this run in seconds, that of its earlier processes and of compilers included."""
        return self.cpu_before + sum(os.times()[:4])

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
        with self.window.timer("plan"):
            actions = self._actions()
        with self.window.timer("environment"):
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
        self.window.decisions += self.config.num_envs
        self.returns += transition.rewards
        self.lengths += real
        self.observations = transition.observations
        if transition.ended.any():
            self._warn_of_termination(transition)
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
            raise self._dump(error, {}) from error

    def _step(self, actions: np.ndarray) -> Transition:
        with self._dumping(actions=actions):
            transition = self.envs.step(actions)
            self._count_divergences(transition)
        return transition

    def _count_divergences(self, transition: Transition) -> None:
        for lane in np.flatnonzero(transition.ended):
            reason = transition.diverged[lane]
            self.diverged += bool(reason)
            self.diverged_in_a_row[lane] = self.diverged_in_a_row[lane] + 1 if reason else 0
            if reason:
                log.warning(
                    "the simulation diverged at environment step %s, lane %d; its episode is cut there: %s",
                    *(f"{self.env_steps:,}", lane, reason),
                )
            if self.diverged_in_a_row[lane] >= DIVERGENCES_IN_A_ROW:
                count = f"{self.diverged_in_a_row[lane]} episodes in a row"
                raise EnvironmentFault(f"{self.spec.id} diverged in {count}, in the last one by {reason}")

    def _warn_of_termination(self, transition: Transition) -> None:
        if self.spec.terminates or self.warned or not transition.terminated.any():
            return
        self.warned = True
        log.warning(
            "an episode terminated at environment step %s, and the agent was built for episodes that never do: without "
            "a termination head it plans past such an end. Start a new run with --terminates True",
            f"{self.env_steps:,}",
        )

    def _finish(self, ended: np.ndarray) -> None:
        for lane in np.flatnonzero(ended):
            self.episodes += 1
            self.sink.log(self._row(int(lane)))
        self.window = Window()
        self.returns[ended], self.lengths[ended] = 0.0, 0
        with self._dumping():
            self.observations = self.envs.start(ended)
        self._reset_actor(ended)

    def _reset_actor(self, started: np.ndarray) -> None:
        """Tell the actor of episodes that start, and with which delay."""
        self.actor.reset(torch.from_numpy(started), torch.from_numpy(self.envs.delays(self.config.delay)))

    def _row(self, lane: int) -> dict[str, Any]:
        planner = self.config.planner
        return {
            "kind": "train",
            "env_steps": self.env_steps,
            "agent_steps": self.agent_steps,
            "episode": self.episodes,
            "return": float(self.returns[lane]),
            "length": int(self.lengths[lane]),
            "diverged": self.diverged,
            "updates": self.agent.updates,
            "std": planner.std(self.agent_steps),
            "horizon": planner.horizon_at(self.agent_steps),
            "reward_scale": self.agent.model.reward_scale.item(),
            "wall_s": round(self.wall_s, 3),
            "cpu_s": round(self.cpu_s, 3),
            **self.pruner.row(),
            **self.window.summary(),
        }

    def _learn(self) -> None:
        due = self._updates_due()
        while self.agent.updates < due and self.replay.windows:
            with self.window.timer("replay"):
                batch = self.replay.sample(self.config.batch_size).to(self.agent.device)
            with self.window.timer("update"):
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
            raise self._dump(error, prefixed("batch", batch.tensors())) from error
        self.replay.update_priorities(batch.indices, update.priorities.cpu().numpy())
        self.window.add(update.metrics)

    def _evaluate_if_due(self) -> None:
        every = self.config.eval_every
        if self.env_steps >= self.config.env_steps:
            return  # the final evaluation is at hand
        if every and self.env_steps // every > self.evaluated_at // every:
            self.sink.log(evaluation_row(self, self.evaluate(self.config.eval_episodes)))
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
            raise self._dump(fault, found) from error

    def _dump(self, error: Fault, evidence: dict[str, Tensor]) -> Fault:
        folder = self.folder / f"fault-{self.agent_steps}"
        tensors, meta = self.state()
        try:
            folder.mkdir(exist_ok=True)
            checkpoint.save(folder, {**tensors, **evidence}, {**meta, "error": str(error)})
        except (OSError, checkpoint.CheckpointError) as unsaved:
            reason = unsaved.__cause__ or unsaved
            return type(error)(f"{error}. Nothing of it could be saved ({reason}); the last checkpoint is untouched")
        return type(error)(f"{error}. Everything is in {folder}; the last checkpoint is untouched")

    # State -----------------------------------------------------------------------------------------------------

    def save(self) -> Path:
        """Write a checkpoint from which the run goes on exactly."""
        tensors, meta = self.state()
        known = pages.unchanged(self.pages, self.replay.changed)
        saved = checkpoint.save(self.folder, tensors, meta, paged=[f"replay/{name}" for name in ROWS], known=known)
        self._is_saved_in(saved.pages)
        self.sink.artifact(saved.path, self.env_steps)
        return saved.path

    def _is_saved_in(self, known: Pages) -> None:
        self.pages, self.replay.changed[:] = known, False

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything the run's future depends on: tensors, and what JSON holds."""
        pruner, pruner_meta = self.pruner.state()
        tensors = {
            **prefixed("agent", self.agent.state()),
            **prefixed("pruner", pruner),
            **prefixed("actor", self.actor.state()),
            **prefixed("window", self.window.sums),
            **prefixed("replay", {name: torch.from_numpy(array) for name, array in self.replay.state().items()}),
            "trainer/observations": torch.from_numpy(self.observations),
            "trainer/returns": torch.from_numpy(self.returns),
            "trainer/lengths": torch.from_numpy(self.lengths),
            "trainer/episodes": torch.from_numpy(self.envs.episodes),
            "trainer/torch_rng": torch.get_rng_state(),
        }
        meta = {
            "config": to_json(self.agent.config),
            "pruner": pruner_meta,
            "spec": to_json(self.spec),
            "agent_steps": self.agent_steps,
            "env_steps": self.env_steps,
            "evaluated_at": self.evaluated_at,
            "episodes": self.episodes,
            "diverged": self.diverged,
            "diverged_in_a_row": self.diverged_in_a_row.tolist(),
            "wall_s": self.wall_s,
            "cpu_s": self.cpu_s,
            "window_updates": self.window.updates,
            "window_decisions": self.window.decisions,
            "exploration": self.exploration.bit_generator.state,
            "python_rng": random.getstate(),
            "numpy_rng": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        }
        return tensors, meta

    def restore(self, saved: checkpoint.Checkpoint) -> str:
        """Go on from a checkpoint of a run with the same config, whatever its widths; tells what was restored."""
        tensors, meta = saved.tensors, saved.meta
        widths = from_json(ModelConfig, meta["config"]["model"])
        if widths != self.config.model:
            self.replace_agent(Agent(dataclasses.replace(self.config, model=widths), self.spec))
        self.agent.load_state(below("agent", tensors))
        self.actor.load_state(below("actor", tensors))
        self.replay.load_state({name: value.numpy() for name, value in below("replay", tensors).items()})
        self._is_saved_in(saved.pages)
        self.returns = tensors["trainer/returns"].numpy().copy()
        self.lengths = tensors["trainer/lengths"].numpy().copy()
        self.agent_steps, self.evaluated_at = meta["agent_steps"], meta["evaluated_at"]
        self.episodes, self.wall_s, self.cpu_before = meta["episodes"], meta["wall_s"], meta.get("cpu_s", 0.0)
        self.diverged = meta.get("diverged", 0)
        self.diverged_in_a_row[:] = meta.get("diverged_in_a_row", 0)
        self.window = Window(below("window", tensors), meta["window_updates"], meta["window_decisions"])
        environment = self._restore_environments(tensors)
        self.exploration.bit_generator.state = meta["exploration"]
        kind, numbers, gauss = meta["python_rng"]
        random.setstate((kind, tuple(numbers), gauss))
        np.random.set_state(tuple(meta["numpy_rng"]))
        torch.set_rng_state(tensors["trainer/torch_rng"])
        if meta.get("pruner"):  # last, for it drops the records that came after the checkpoint
            self.pruner.load_state(below("pruner", tensors), meta["pruner"])
        return (
            f"restored {saved.path.name}: step {self.env_steps:,} of {self.config.env_steps:,}, "
            f"{self.agent.updates:,} updates, {len(self.replay):,} transitions, both optimisers, "
            f"random streams; {environment}"
        )

    def _restore_environments(self, tensors: dict[str, Tensor]) -> str:
        """Play the running episodes again; where that leads elsewhere, start new ones."""
        self.envs.episodes = tensors["trainer/episodes"].numpy()
        try:
            actions = [self.replay.episode_actions(lane) for lane in range(self.config.num_envs)]
            self.observations = self.envs.restore(self.envs.episodes, actions)
            astray = (self.observations != tensors["trainer/observations"].numpy()).any(1)
        except ValueError:  # one ended on the way, or is longer than the replay
            astray = np.ones(self.config.num_envs, dtype=bool)
        if not astray.any():
            return "the running episodes were played again and agree"
        self.returns[astray], self.lengths[astray] = 0.0, 0
        self.replay.cut(astray)
        self.observations = self.envs.start(astray)
        self._reset_actor(astray)
        return f"{astray.sum()} running episode(s) could not be played again exactly and start anew"


def evaluation_row(trainer: Trainer, result: Evaluation) -> dict[str, Any]:
    """An evaluation as the metrics record it."""
    return {
        "kind": "eval",
        "env_steps": trainer.env_steps,
        "agent_steps": trainer.agent_steps,
        "return_mean": result.return_mean,
        "return_std": result.return_std,
        "episodes": len(result.returns),
        "diverged": result.diverged,
        "time/plan_ms": result.decision_ms_p50,
        "wall_s": round(trainer.wall_s, 3),
        "cpu_s": round(trainer.cpu_s, 3),
    }


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def load_agent(
    folder: Path, *, planner: Mapping[str, Any] | None = None, **overrides: Any
) -> tuple[Agent, dict[str, Any]]:
    """The agent of a run, without its replay, and what was saved beside it.

    Args:
        folder: a run folder.
        planner: settings of ``PlannerConfig`` to plan with instead of the run's.
        overrides: settings of ``TrainConfig`` that may differ at run time: device, precision, threads, compile, delay,
            perturb.
    """
    saved = checkpoint.load(folder, prefixes=("agent/",))
    settings = {**saved.meta["config"], **overrides}
    config = from_json(TrainConfig, {**settings, "planner": {**settings["planner"], **(planner or {})}})
    agent = Agent(config, from_json(EnvSpec, saved.meta["spec"]))
    agent.load_state(below("agent", saved.tensors))
    return agent, saved.meta
