"""General helpers that know nothing of convolutions: errors, files, batches, progress, tables."""
