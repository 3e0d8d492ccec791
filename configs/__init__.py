"""Configurations of published and small runs."""
