"""Classifiers of CIFAR-10 under a budget of MACs."""
