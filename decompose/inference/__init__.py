"""Engines that run models, and how fast."""
