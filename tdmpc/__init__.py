"""TD-MPC: a latent world model, the planner that uses it, and everything needed to train them.

``tdmpc.compression`` prunes, ``tdmpc.deploy`` brings agents to robots, ``tdmpc.scripts`` is the command line: in the
repository they are folders of their own, which links inside this one lead to. ``tdmpc.deploy`` needs no PyTorch.
"""
