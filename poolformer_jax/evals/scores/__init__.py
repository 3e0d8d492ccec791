"""How close generated clips come to real ones: FID, IS, mIS, AM, NDB, with intervals.

`scoring` is where to begin.
"""
