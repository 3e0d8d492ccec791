"""The classifier of one-second clips behind the scores: training, inference, files."""
