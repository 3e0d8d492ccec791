# ---
# jupyter:
#   accelerator: TPU
#   colab: {name: Poolformer on SC09}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Poolformer on SC09, on one chip
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/poolformer_jax/blob/main/notebooks/poolformer_on_sc09.ipynb)
#
# The published recipe. A free chip is taken away after some hours: the workdir is on Drive, and the
# next session goes on where it was. The first cell installs on the image's own Python and JAX, and
# the libtpu that this JAX asks for.

# %%
# %pip install -q "poolformer_jax[digits,download,report,tpu]"

# %% [markdown]
# What JAX computes on; a TPU that is there and not used ends the cell with an error.

# %%
import logging
import os
import sys

import jax
from IPython.display import display

from poolformer_jax import experiment as ex

FAST = "POOLFORMER_NOTEBOOK_FAST" in os.environ  # A minute in all, to test this notebook.
logging.basicConfig(format="%(message)s")
logging.getLogger("poolformer_jax").setLevel("INFO")
logging.getLogger("absl").setLevel("ERROR")  # Orbax tells every option that it sets.
print(ex.describe_devices())

# %% [markdown]
# Drive keeps the run; it asks for a click.

# %%
WORKDIR, DATA_DIR = "runs/sc09", "data"
if "google.colab" in sys.modules:
    from google.colab import drive

    drive.mount("/content/drive")
    WORKDIR = "/content/drive/MyDrive/poolformer/sc09"

# %% [markdown]
# The data: from the Hugging Face Hub, checked clip by clip. They are on the machine's own disk, so
# every session prepares them again; `manual_dir="/content/drive/MyDrive/sc09.zip"` in place of
# `download` saves the download.

# %%
NAME = "digits_tiny" if FAST else "sc09"
if FAST:
    ex.prepare_data(NAME, data_dir=DATA_DIR)
else:
    ex.prepare_data(NAME, data_dir=DATA_DIR, download=True)

# %% [markdown]
# The published configuration. Its 32 clips go through the chip one by one, so it fits any. On a CPU
# the training cell ends with an error: the recipe would take years there. A checkpoint has
# about 120 MB, and Drive keeps deleted ones in its trash: every ten epochs there is one, or after ten
# minutes, about what a disconnect loses. Empty the trash once in a while.

# %%
config = ex.named_config("digits" if FAST else "sc09")
config.data.name, config.data.data_dir = NAME, DATA_DIR
config.train.eval_every = config.train.checkpoint_every = 10 * 973
config.train.checkpoint_minutes = 10.0
if FAST or jax.default_backend() == "gpu":
    config.model.platform = jax.default_backend()
if FAST:
    config.model.pool_factors, config.model.layers = (16,), (1, 1)
    config.data.seq_len, config.data.train_len = 1_600, 320
    config.train.num_steps, config.train.log_every, config.train.eval_every = 8, 2, 8
    config.train.checkpoint_every = 8
experiment = ex.make_experiment(config)

# %% [markdown]
# Does it fit, and how long does a step take at least? On a CPU, this compiles for chips
# that are not there: 69 ms on v5e and 15 ms on v6e by the roofline, so the whole recipe takes
# at least 9.4 and 2 hours. For another model, `find_batch=True` finds the largest batch that fits.

# %%
if jax.default_backend() == "cpu":
    for chip in ("v5e:1x1",) if FAST else ("v5e:1x1", "v6e:1x1"):
        for found in ex.compile_for_tpu(experiment, [chip]):
            memory = f"{found.report.peak_bytes / 1e9:.2f} GB" if found.fits else "does not fit"
            print(chip, found.program, f"{found.batch} clips:", memory, found.roofline_seconds, "s")

# %% [markdown]
# Train. After a disconnect, run all cells again: training goes on from the latest checkpoint.

# %%
print(ex.train(experiment, WORKDIR, on_log=ex.LivePlot(WORKDIR)))

# %% [markdown]
# Bits per sample on the test split; published: 1.854.

# %%
likelihood = ex.evaluate_likelihood(WORKDIR, split="test")
print(f"{likelihood['bits_per_sample']:.3f} bits per sample; published 1.854")

# %% [markdown]
# Clips to listen to.

# %%
params, step = ex.restore_params(WORKDIR)
clips = ex.draw_clips(experiment, params, 2, length=800 if FAST else 16_000)
ex.show_clips(clips)

# %% [markdown]
# | published on SC09 | bits | FID | IS |
# |---|---|---|---|
# | Poolformer, 7.3M | 1.854 | 0.46 | 6.46 |
# | Mamba, 6.1M | 1.852 | 0.94 | 6.26 |
# | SaShiMi, 6.8M | 1.873 | 1.99 | 5.13 |
#
# Your own scores beside all that were published: they need 2,048 clips and the classifier of the
# publications. `ex.import_classifier("resnext.pth", "sc09_classifier")` makes a folder of it, which
# is named here; docs/scores.md says where it comes from.

# %%
CLASSIFIER = None
if FAST or CLASSIFIER:
    clips, length = (20, 1_600) if FAST else (2_048, 16_000)
    samples = ex.sample(WORKDIR, "samples", num_clips=clips, length=length, overwrite=True)
    ex.score_samples(
        samples,
        workdir=WORKDIR,
        classifier=CLASSIFIER,
        bootstrap=0 if FAST else 50,
        num_cells=2 if FAST else 50,
    )
    display(ex.show_page(samples / "metrics" / "index.html"))
