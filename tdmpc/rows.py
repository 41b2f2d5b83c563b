"""What the metrics record of a training, one row after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tdmpc.evaluation import Evaluation

if TYPE_CHECKING:
    from tdmpc.trainer import Trainer


def episode_row(trainer: Trainer, lane: int) -> dict[str, Any]:
    """An episode that has ended, as the metrics record it."""
    planner = trainer.config.planner
    return {
        "kind": "train",
        "env_steps": trainer.env_steps,
        "agent_steps": trainer.agent_steps,
        **trainer.episodes.row(lane),
        "updates": trainer.agent.updates,
        "std": planner.std(trainer.agent_steps),
        "horizon": planner.horizon_at(trainer.agent_steps),
        "reward_scale": trainer.agent.model.reward_scale.item(),
        "wall_s": round(trainer.wall_s, 3),
        "cpu_s": round(trainer.cpu_s, 3),
        **trainer.pruner.row(),
        **trainer.tally.summary(),
    }


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
