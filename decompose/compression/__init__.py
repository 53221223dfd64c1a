"""Compress a model to a budget: plan, apply, repair."""
