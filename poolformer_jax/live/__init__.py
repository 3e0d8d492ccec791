"""A page on this machine that plays what a model generates, while it generates it."""
