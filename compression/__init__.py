"""Component-aware structured pruning of modules made of named components; ``tdmpc_agent`` knows TD-MPC."""
