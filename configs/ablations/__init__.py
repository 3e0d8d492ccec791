"""Configurations that change one thing of another one."""
