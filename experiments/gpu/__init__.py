"""Planning, repairing and running compressed models on a GPU."""
