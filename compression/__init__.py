"""Component-aware structured pruning; nothing is here yet."""
