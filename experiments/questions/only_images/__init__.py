"""Only for images?."""
