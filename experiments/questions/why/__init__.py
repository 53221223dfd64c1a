"""Why does it work?."""
