"""Train on a task of Gymnasium, prune, evaluate, export: ``python examples/train.py``, some minutes on one thread."""

from tdmpc import evaluate, export, prune, train

run = train("Pendulum-v1", env_steps=6_000, threads=1, video=False)
small = prune(run, target=0.75, finetune_steps=2_000)
for folder in (run, small):
    result = evaluate(folder, episodes=5)
    print(f"{folder}: return {result.return_mean:.0f} ± {result.return_std:.0f}")
print(f"for the robot: {export(small, 'pendulum-bundle')}")
