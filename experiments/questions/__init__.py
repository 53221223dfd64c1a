"""Questions that newcomers ask."""
