"""Evaluation of a trained model: likelihood on a whole split, and the report of a run."""
