# %% [markdown]
"""What happens if a term of LayerNorm's backward is missing: does the model still learn?

The gradient of y = x̂ w + b with respect to x has three terms, with g = dy w and r = 1/σ:

    dx  =  r g  −  r ⟨g⟩  −  r x̂ ⟨g x̂⟩

A wrong one is served at every norm of the model, and the model is trained. Nothing else changes.
"""

# %%
import dataclasses

import numpy as np
import picture

import numgpt
from numgpt import ops

show = picture.script(__doc__)  # --plot FILE draws
numgpt.use("reference")  # the arrays are small: plain NumPy is as fast, and compiles nothing
numgpt.set_threads(1)  # a second one gains nothing
STEPS = 300


def without(mean=False, xhat=False):
    """LayerNorm whose backward lacks a term, or two; its forward is right."""

    def backward(dy, saved):
        xh, rstd, weight, _ = saved
        _, dweight, dbias = ops.layernorm.backward(dy, saved)
        g = dy * weight
        dx = g
        if not mean:
            dx = dx - g.mean(-1, keepdims=True)
        if not xhat:
            dx = dx - xh * (g * xh).mean(-1, keepdims=True)
        return rstd * dx, dweight, dbias

    return dataclasses.replace(ops.layernorm, backward=backward)


kinds = {
    "all three": without(),
    "no mean": without(mean=True),
    "no x̂": without(xhat=True),
    "neither": without(mean=True, xhat=True),
}

# %% [markdown]
"""The task: the second half of a text repeats the first, so the model has to learn to look back."""

# %%
config = numgpt.Config(vocab_size=8, block_size=11, n_layer=2, n_head=2, n_embd=32)


def batch(seed, rows=32):
    """Tokens and targets (rows, 11). Those in the first half do not count: nobody could know them."""
    half = np.random.default_rng(seed).integers(0, 8, (rows, 6))
    text = np.concatenate([half, half], axis=1)
    targets = text[:, 1:].copy()
    targets[:, :5] = -1
    return text[:, :-1], targets


def model_with(norm, params=None):
    """A model whose norms are that op."""
    return numgpt.GPT(config, seed=0, params=params, served={"*ln_*": norm})


def cosine(a, b):
    """The cosine of the angle between two gradients."""
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def trained(norm, seed):
    """(loss of each step, cosine with the right gradient at the start and at the end)"""
    model = model_with(norm)
    optimizer = numgpt.AdamW(model, weight_decay=0.0)
    training = numgpt.Training(steps=STEPS, lr=3e-3, warmup=20)
    losses, angles = [], []
    for step in range(STEPS):
        tokens, targets = batch((seed, step))
        loss, grads = model.loss_and_grads(tokens, targets)
        if step in (0, STEPS - 1):
            right = model_with(kinds["all three"], model.params).loss_and_grads(tokens, targets)[1]
            angles.append(cosine(grads.flat, right.flat))
        optimizer.step(grads, lr=numgpt.learning_rate(step, training))
        losses.append(float(loss))
    return np.array(losses), angles


# %%
print("terms      cosine with the gradient: first step  last step   loss: first  mean of the last 20")
curves = {}
for name, norm in kinds.items():
    curves[name], angles = trained(norm, 0)
    last = curves[name][-20:].mean()
    print(f"{name:10} {angles[0]:36.4f}  {angles[1]:9.4f}  {curves[name][0]:12.3f}  {last:19.3f}")
    if name == "all three":
        assert angles[0] > 1 - 1e-6 and angles[1] > 1 - 1e-6
    else:  # a wrong gradient, and yet one that points downhill: its cosine is above 0, below 1
        assert all(0.5 < angle < 0.999 for angle in angles)
    assert last < 0.1, "it learns: a blind guess has ln 8 = 2.08"

# %% [markdown]
"""All four learn. A falling loss is no proof of a gradient; the laws are, and they say where it is
wrong."""

# %%
x, weight, bias = (rng.standard_normal(n) for rng in [np.random.default_rng(0)] for n in ((2, 3, 5), 5, 5))
print()
for name, norm in kinds.items():
    try:
        numgpt.gradcheck.check(norm.forward, norm.backward, x, weight, bias)
        said = "right"
    except numgpt.gradcheck.GradientError as error:
        said = str(error).splitlines()[0]
    print(f"{name}: {said[:100]}")
    assert (said == "right") == (name == "all three")


# %%
def draw(figure):
    """The loss with each of the backwards."""
    ax = figure.subplots()
    for (name, losses), dash in zip(curves.items(), ("-", "--", "-.", ":")):
        ax.semilogy(np.convolve(losses, np.ones(10) / 10, "valid"), dash, label=name)
    ax.set(xlabel="step", ylabel="loss, mean of 10 steps", title="a wrong backward learns, too")
    ax.legend()


show(draw)
print("\nEach wrong backward learns the task: that a loss falls does not show that a gradient is right.")
