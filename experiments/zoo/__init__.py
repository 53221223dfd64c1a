"""The zoo: half the MACs of every kind of network."""
