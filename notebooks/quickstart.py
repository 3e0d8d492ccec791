# ---
# jupyter:
#   accelerator: TPU
#   colab: {name: poolformer_jax quickstart}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Poolformer in ten minutes
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/poolformer_jax/blob/main/notebooks/quickstart.ipynb)
#
# Hear a trained model, train a small one, listen to it and score it. On a TPU, a GPU or a CPU:
# in Colab, choose *Runtime > Change runtime type > v5e-1 TPU*.
# The first cell installs on the image's own Python and JAX, and replaces neither.

# %%
# %pip install -q "poolformer_jax[digits,report]"

# %% [markdown]
# What JAX computes on; a TPU that is there and not used ends the cell with an error.

# %%
import logging
import os

import jax

from poolformer_jax import experiment as ex

FAST = "POOLFORMER_NOTEBOOK_FAST" in os.environ  # A minute in all, to test this notebook.
logging.basicConfig(format="%(message)s")
logging.getLogger("poolformer_jax").setLevel("INFO")
logging.getLogger("absl").setLevel("ERROR")  # Orbax tells every option that it sets.
print(ex.describe_devices())

# %% [markdown]
# A model that comes with the package draws the ten digits, sample by sample. It was trained for an
# hour on one fast voice: 95 of 100 words are recognised.

# %%
speaker, speaker_params = ex.load_pretrained("digits")
words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
labels = range(1 if FAST else 10)
clips = ex.draw_clips(
    speaker, speaker_params, len(labels), length=800 if FAST else 4_480, labels=labels
)
ex.show_clips(clips, [words[label] for label in labels])

# %% [markdown]
# A configuration is a file with every field; a notebook changes a few of them.

# %%
config = ex.named_config("digits_steady")
config.model.platform = jax.default_backend()
if FAST:
    config.model.pool_factors, config.model.layers = (16,), (1, 1)
    config.data.name = "digits_tiny"
    config.train.num_steps, config.train.log_every, config.train.eval_every = 20, 5, 20
experiment = ex.make_experiment(config)
print(experiment.model)

# %% [markdown]
# Train. First eSpeak NG speaks 5,000 words, in half a minute. The workdir keeps checkpoints: run the cell again, and training goes on where it was.

# %%
WORKDIR = "runs/quickstart"
outcome = ex.train(experiment, WORKDIR, on_log=ex.LivePlot(WORKDIR))
print(outcome)

# %% [markdown]
# Bits per sample on test clips; a model that knows nothing needs 8. Here every test clip is a training clip as well.

# %%
likelihood = ex.evaluate_likelihood(WORKDIR, split="test")
print(f"{likelihood['bits_per_sample']:.3f} bits per sample")

# %% [markdown]
# Draw the ten digits from it. After minutes of training about half of them are words.

# %%
params, step = ex.restore_params(WORKDIR)
draw = ex.Draw(temperature=0.8)  # Fewer clicks than at 1.
length = 800 if FAST else 4_480
clips = ex.draw_clips(experiment, params, len(labels), length=length, labels=labels, draw=draw)
ex.show_clips(clips, [words[label] for label in labels])

# %% [markdown]
# Score a folder of clips with the classifier of digits: FID, Inception Score and others.

# %%
length = 1_600 if FAST else 4_480
samples = ex.sample(
    WORKDIR, num_clips=20 if FAST else 256, length=length, label="cycle", overwrite=True
)
scores = ex.score_samples(samples, workdir=WORKDIR, bootstrap=0, num_cells=2 if FAST else 50)
for found in scores.sets:
    metrics = found.metrics
    print(f"{found.title}: FID {metrics.fid.value:.2f}, IS {metrics.inception_score.value:.2f}")
