"""Load and save models, and the plans that rewrite them."""
