"""Drawing sequences from a model, one sample at a time."""
