"""Evaluation: likelihood of a split, scores of generated clips, intervals for both."""
