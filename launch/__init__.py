"""Thin command-line programs, one per job: `python -m launch.<name> --helpshort`."""
