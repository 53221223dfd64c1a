"""Classifiers of ImageNet under a budget of MACs."""
