"""VGG16, decoupled without data."""
