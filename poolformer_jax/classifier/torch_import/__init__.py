"""The published classifier's PyTorch checkpoint, read without PyTorch."""
