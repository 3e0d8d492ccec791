"""What a trace tells."""

import jax

from poolformer_jax.training.profiling import STEP_NAME


def steps_in(path):
    """Numbers of the training steps that a file .xplane.pb has, in order."""
    planes = jax.profiler.ProfileData.from_file(str(path)).planes
    events = [event for plane in planes for line in plane.lines for event in line.events]
    return sorted(dict(event.stats)["step_num"] for event in events if event.name == STEP_NAME)
