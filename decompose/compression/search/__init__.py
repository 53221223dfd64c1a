"""Search: from a budget to a plan."""
