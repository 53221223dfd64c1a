"""The layers inside a model: found, costed, watched, swapped, run."""
