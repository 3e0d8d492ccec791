"""Sequence models: the protocol, the table of kinds, and a package for each kind."""
