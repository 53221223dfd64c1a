"""Accuracy won back by fine-tuning."""
