"""How many bits per sample a model needs: of a split, of each clip, at each position."""
