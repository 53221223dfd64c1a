"""INT8 of dense and of decomposed models."""
