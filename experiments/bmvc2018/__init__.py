"""Network decoupling, BMVC 2018: the paper's experiments."""
