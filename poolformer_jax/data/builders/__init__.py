"""Data set builders: each writes ArrayRecord files once, without TensorFlow."""
