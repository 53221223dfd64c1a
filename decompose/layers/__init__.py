"""Layers inside a model: found, costed, observed, swapped, run."""
