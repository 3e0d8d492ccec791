"""Clips to score: generated ones, whoever made them, and recordings beside them."""
