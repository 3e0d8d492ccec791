"""Evaluation: likelihood on a whole split, scores of generated clips, the report of a run."""
