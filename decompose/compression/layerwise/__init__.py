"""Data-driven methods of the literature, layer after layer."""
