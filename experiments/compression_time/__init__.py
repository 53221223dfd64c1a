"""What it costs to plan and repair a model, in forward passes of it."""
