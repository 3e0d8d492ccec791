"""Compiles an experiment for a TPU slice, without a TPU: does it fit, what would a step cost?

    python -m launch.compile_tpu --config=configs/sc09.py --topology=v5e:4x4
    python -m launch.compile_tpu --config=configs/sc09.py --topology=v5e:4x4 --num_slices=2
    python -m launch.compile_tpu --config=configs/sc09.py --topology=v5e:2x2 --find_batch
    python -m launch.compile_tpu --config=sc09 --topologies=v5e:2x2,v5e:4x4,v5e:8x8 --html=FILE

Prints memory beside the chip's HBM, bytes and FLOPs of a step, its roofline and which side binds,
and the collectives: over which axes of the mesh and which link. Over several topologies also how
training scales, with as many clips on each chip (weak) and with the same batch (strong). Needs
libtpu (pip install -e '.[tpu]'); nothing is run. A program that does not fit is a result, not an
error.
"""

from __future__ import annotations

from absl import flags

from launch import command_line
from poolformer_jax import experiment as ex

_FLAGS = flags.FlagValues()
command_line.define_config(_FLAGS)
_TOPOLOGIES = flags.DEFINE_list(
    "topologies",
    None,
    "Chip and shape of the slices to compile for, such as v5e:4x4. Of several, the batch of the "
    "configuration is for the first.",
    required=True,
    flag_values=_FLAGS,
)
flags.DEFINE_alias("topology", "topologies", flag_values=_FLAGS)
_NUM_SLICES = flags.DEFINE_integer(
    "num_slices", 1, "Slices, joined by the data-centre network.", flag_values=_FLAGS
)
_FIND_BATCH = flags.DEFINE_bool(
    "find_batch", False, "Look for the largest batch that fits the first.", flag_values=_FLAGS
)
_JSON = flags.DEFINE_string("json", None, "File for all figures.", flag_values=_FLAGS)
_HTML = flags.DEFINE_string(
    "html",
    None,
    "File for a page with tables and plot; needs the extra `report`.",
    flag_values=_FLAGS,
)


def main(argv):
    """Compiles and prints; returns the results."""
    del argv
    with ex.user_errors():
        experiment = command_line.configured(_FLAGS, ex.Experiment)
    results = ex.compile_for_tpu(
        experiment,
        _TOPOLOGIES.value,
        num_slices=_NUM_SLICES.value,
        find_batch=_FIND_BATCH.value,
        json=_JSON.value,
        html=_HTML.value,
    )
    print(ex.describe_compiled(results))
    return results


if __name__ == "__main__":
    command_line.run(main, _FLAGS)
