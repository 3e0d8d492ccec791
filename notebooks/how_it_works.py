# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # How a Poolformer works
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/poolformer_jax/blob/main/notebooks/how_it_works.ipynb)
#
# Recurrence, scan, pooling, streaming: each in a few lines. Change a number and run on. The first
# cell installs, the second says what JAX computes on.

# %%
# %pip install -q "poolformer_jax[report]"

# %%
import logging

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from poolformer_jax import experiment as ex

logging.basicConfig(format="%(message)s")
logging.getLogger("poolformer_jax").setLevel("INFO")
print(ex.describe_devices())

# %% [markdown]
# ## A gated linear recurrence
# `h_t = a_t h_{t-1} + sqrt(1 - |a_t|^2) u_t`: the decay says how long a sample is remembered, and
# the square root keeps the size of the state. `a` near 1 remembers long, and a complex one turns as
# it forgets: it responds to one frequency. Try 0.5, 0.999, or another angle.

# %%
u = np.random.default_rng(0).normal(size=400)
figure, axes = plt.subplots(figsize=(9, 3))
for radius, angle in ((0.5, 0.0), (0.9, 0.0), (0.99, 0.0), (0.99, 0.2)):
    a, h = radius * np.exp(1j * angle), np.zeros(400, complex)
    for t in range(1, 400):
        h[t] = a * h[t - 1] + np.sqrt(1 - radius**2) * u[t]
    half = np.log(0.5) / np.log(radius)
    axes.plot(
        h.real, label=f"|a| = {radius}, angle {angle}: half is forgotten after {half:.0f} steps"
    )
axes.legend()
plt.show()

# %% [markdown]
# In an RG-LRU each channel learns its decay, and two gates look at the input: one lets the channel
# keep its state (`|a|` goes to 1), the other shuts the input out. Here the gate closes for steps
# 100 to 200, and the state stays as it is. Try 0.5 in place of 0.

# %%
gate = np.where((np.arange(400) >= 100) & (np.arange(400) < 200), 0.0, 1.0)
kept = 0.95**gate  # |a| of every step: the exponent of the learnt decay is the gate.
state = np.zeros(400)
for t in range(1, 400):
    state[t] = kept[t] * state[t - 1] + np.sqrt(1 - kept[t] ** 2) * u[t]
figure, axes = plt.subplots(figsize=(9, 2))
axes.plot(state)
axes.set(xlabel="step", ylabel="state")
plt.show()

# %% [markdown]
# ## The same in parallel
# Two steps in a row are one step: (a1, b1) then (a2, b2) is (a1 a2, a2 b1 + b2). That is
# associative, so a scan needs log2(t) rounds instead of t steps. Try a decay that changes at every
# step: it need not be constant.


# %%
def combine(first, second):
    (a1, b1), (a2, b2) = first, second
    return a1 * a2, a2 * b1 + b2


decay, inputs = jnp.full(400, 0.9), jnp.sqrt(1 - 0.9**2) * jnp.asarray(u)
_, parallel = jax.lax.associative_scan(combine, (decay, inputs))
one_by_one = np.zeros(400)
for t in range(400):
    one_by_one[t] = decay[t] * one_by_one[t - 1] + inputs[t] if t else inputs[0]
print(f"largest difference: {np.abs(parallel - one_by_one).max():.1e}")

# %% [markdown]
# ## Pooling is causal
# A level below sees a window only when it is complete, so what is pooled up arrives a window late.
# Change one code at a time and see which log-probabilities move: none above the diagonal. Try the
# factors `(8,)` with the layers `(1, 1)`.

# %%
config = ex.named_config("digits")
config.model.platform = jax.default_backend()
config.model.pool_factors, config.model.layers = (2, 4), (1, 1, 1)
config.model.embedding = "mlp"
experiment = ex.make_experiment(config)
model = experiment.model.build()
params = model.init_params(jax.random.key(0))
codes = jax.random.randint(jax.random.key(1), (1, 24), 0, 256)
read = jax.jit(model.log_probs)  # (parameters, codes, state) -> (log-probabilities, state)


def changed_by(position):
    """Which log-probabilities another code at this position changes."""
    other = codes.at[0, position].add(101) % 256
    before, after = (read(params, given, model.init_state(1))[0][0] for given in (codes, other))
    return np.abs(np.asarray(after - before)) > 1e-6


influence = np.stack([changed_by(position) for position in range(24)], axis=1)
figure, axes = plt.subplots(figsize=(4.5, 4))
axes.imshow(influence, cmap="Greys")
axes.set(xlabel="code that changes", ylabel="log-probability", title="what depends on what")
plt.show()
print("above the diagonal:", np.triu(influence, 1).sum(), "below:", np.tril(influence, -1).sum())

# %% [markdown]
# ## State and streaming
# The state is all that the model remembers. Reading in two chunks gives what one chunk gives, up to
# rounding. Try to cut at 8, the product of the pools, instead of 16.

# %%
whole, _ = read(params, codes, model.init_state(1))
first, state = read(params, codes[:, :16], model.init_state(1))
second, state = read(params, codes[:, 16:], state)
print(f"largest difference: {np.abs(whole - jnp.concatenate([first, second], 1)).max():.1e}")
size = sum(leaf.size for leaf in jax.tree.leaves(state))
print(f"the state holds {size:,} numbers, however long the sequence is")

# %% [markdown]
# ## What a trained layer remembers
# The decays of the outermost layers of the model that comes with the package, as times in milliseconds.

# %%
speaker, trained = ex.load_pretrained("digits")
exponent = speaker.model.mixer.decay_exponent
figure, axes = plt.subplots(figsize=(9, 3))
for name, where in (("pre", "before"), ("post", "after")):
    mixer = trained["backbone"][name]["layers"]["mixer"]["rg_lru"]
    rate = exponent * np.log1p(np.exp(np.ravel(mixer["decay"])))  # -log|a| with an open gate
    axes.hist(np.log10(1_000 / 16_000 / rate), bins=30, alpha=0.6, label=f"{where} the pool")
axes.set(xlabel="log10 of milliseconds until 1 / e is left, gate open", ylabel="channels")
axes.legend()
plt.show()
