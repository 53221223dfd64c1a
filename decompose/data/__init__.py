"""Images to calibrate on, to evaluate on and to train on."""
