"""VGG16: from fewer MACs to less time."""
