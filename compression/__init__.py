"""Component-aware structured pruning of modules made of named components; ``tdmpc_groups`` knows TD-MPC."""
