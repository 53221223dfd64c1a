"""Refit layers to the original's outputs."""
