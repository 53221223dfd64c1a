"""What experiments share: records, plots, classifiers."""
