"""Pure functions of JAX arrays: recurrences, bounded square root, likelihood."""
