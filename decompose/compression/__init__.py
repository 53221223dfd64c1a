"""A model and a budget become a smaller model."""
