"""Models by name and by file, and the plans that they follow."""
