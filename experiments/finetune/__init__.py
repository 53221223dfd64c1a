"""Finetuning: what it wins back."""
