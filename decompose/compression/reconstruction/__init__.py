"""Layers refitted to the original's outputs."""
