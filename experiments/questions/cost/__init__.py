"""What does it cost in accuracy?."""
