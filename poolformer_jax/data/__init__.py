"""Data sets and the host-sharded input pipeline."""
