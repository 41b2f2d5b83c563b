"""The one folder that knows how TD-MPC is wired: what of an agent can be pruned, and how a smaller one is judged."""
