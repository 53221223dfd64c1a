"""What knows nothing of convolutions: errors, files, batches, progress, tables."""
