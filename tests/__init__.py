"""The tests mirror decompose/, one file a module."""
