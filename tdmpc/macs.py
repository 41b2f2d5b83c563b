"""Multiply-adds of a plan: what pruning saves, and what a runtime has to compute."""

from itertools import pairwise

from tdmpc.config import ModelConfig, PlannerConfig
from tdmpc.spec import EnvSpec


def mlp_macs(inputs: int, hidden: tuple[int, ...], outputs: int) -> int:
    """Multiply-adds of one row through a perceptron, biases and activations not counted."""
    widths = (inputs, *hidden, outputs)
    return sum(a * b for a, b in pairwise(widths))


def planning_macs(model: ModelConfig, spec: EnvSpec, planner: PlannerConfig) -> dict[str, int]:
    """Multiply-adds that each component spends in one plan at the full horizon."""
    joint = model.latent + spec.action_dim
    sampled = planner.samples * planner.iterations
    paths = sampled + planner.policy_trajectories
    steps = paths * planner.horizon
    proposed = planner.policy_trajectories * planner.horizon
    macs = {
        "encoder": mlp_macs(spec.observation_dim, model.encoder, model.latent),
        "dynamics": steps * mlp_macs(joint, model.dynamics, model.latent),
        "reward": steps * mlp_macs(joint, model.reward, 1),
        "policy": (paths + proposed) * mlp_macs(model.latent, model.policy, spec.action_dim),
        "value": paths * model.value_heads * mlp_macs(joint, model.value, 1),
    }
    if spec.terminates:
        macs["termination"] = steps * mlp_macs(model.latent, model.termination, 1)
    return macs
