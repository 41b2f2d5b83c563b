"""TD-MPC: a latent world model, the planner that uses it, and everything needed to train them."""

from importlib.util import find_spec

if find_spec("torch") is None:
    raise ImportError("tdmpc needs PyTorch and the simulators; install them with: pip install 'tdmpc[train]'")
