"""The papers' data-driven methods, layer after layer."""
