"""Deployment without torch; nothing is here yet."""
