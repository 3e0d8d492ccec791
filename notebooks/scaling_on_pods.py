# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Which slice, before paying for it
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/poolformer_jax/blob/main/notebooks/scaling_on_pods.ipynb)
#
# A training step is compiled for slices that are not there: does it fit, what does it move and
# compute, how does it scale. Any machine will do. The last part trains on Kaggle's eight chips:
# there, *File > Import Notebook*, and *Settings > Accelerator > TPU v5e-8*. The first cell installs.

# %%
# %pip install -q "poolformer_jax[digits,report,tpu]"

# %% [markdown]
# What JAX computes on; a TPU that is there and not used ends the cell with an error.

# %%
import logging
import os

import jax
from IPython.display import display

from poolformer_jax import experiment as ex

FAST = "POOLFORMER_NOTEBOOK_FAST" in os.environ  # A minute in all, to test this notebook.
logging.basicConfig(format="%(message)s")
logging.getLogger("poolformer_jax").setLevel("INFO")
logging.getLogger("absl").setLevel("ERROR")  # Orbax tells every option that it sets.
print(ex.describe_devices())

# %% [markdown]
# Your configuration. Here: a small one; `sc09` compiles for some minutes.

# %%
config = ex.named_config("digits")
if FAST:
    config.model.pool_factors, config.model.layers = (16,), (1, 1)
    config.data.seq_len, config.data.train_len = 1_600, 320
experiment = ex.make_experiment(config)

# %% [markdown]
# All programs for the first slice, training for the others: does it fit, and the roofline, the least
# time of a step. The compiler and a TPU in use exclude each other: on a TPU this cell and the next do nothing.

# %%
topologies = ["v5e:1x1", "v5e:2x2"] if FAST else ["v5e:1x1", "v5e:2x2", "v5e:2x4", "v5e:4x4"]
if jax.default_backend() != "tpu":
    for found in ex.compile_for_tpu(experiment, topologies, html="scaling.html"):
        print(found.topology, found.program, found.batch, found.fits, found.roofline_seconds)

# %% [markdown]
# The page has all tables and plots: memory, bytes, FLOPs, what the chips exchange.

# %%
if jax.default_backend() != "tpu":
    display(ex.show_page("scaling.html"))

# %% [markdown]
# On a pod, every host runs the same command; the data set is in a bucket already. From a clone, on
# your own machine
# ([more](https://github.com/OWNER/poolformer_jax/blob/main/docs/pods.md)):
#
# ```sh
# pod() { launch/pods/tpu_vm.sh "$1" --name=sc09 --zone=us-west4-a "${@:2}"; }
# pod create --accelerator=v5litepod-16
# pod install
# pod train -- --config=sc09 --workdir=gs://BUCKET/runs/sc09 --data_dir=gs://BUCKET/data
# pod status  # It trains until every worker's exit status is 0.
# pod delete  # Then.
# ```

# %% [markdown]
# ## Eight chips at once
# On Kaggle's v5e-8 the same call trains on all eight chips: the batch is split over them.

# %%
if len(jax.devices()) > 1 or FAST:
    config = ex.named_config("digits")
    config.model.platform = jax.default_backend()
    config.train.batch_size = 8 if FAST else 32
    config.train.num_steps, config.train.log_every = (8, 2) if FAST else (1_000, 50)
    config.train.eval_every = config.train.num_steps
    if FAST:
        config.model.pool_factors, config.model.layers = (16,), (1, 1)
        config.data.name = "digits_tiny"
        config.data.seq_len, config.data.train_len = 1_600, 320
    run = ex.make_experiment(config)
    print(ex.train(run, "runs/eight", on_log=ex.LivePlot("runs/eight")))
