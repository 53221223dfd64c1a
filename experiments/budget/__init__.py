"""VGG16 under a budget of MACs."""
