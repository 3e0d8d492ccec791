"""Raw-audio codecs and WAV files, in NumPy only."""
