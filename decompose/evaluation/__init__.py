"""How good a model is, and how far from its original."""
