"""Many budgets of one model: ``points``, ``scores``, ``run``, and ``results`` (table and plot)."""
