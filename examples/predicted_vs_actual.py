# %% [markdown]
"""How far does a gradient see: up to which step does g·δ predict how the loss changes?

Along a direction v of length 1 the loss is

    loss(θ + s v) − loss(θ)  =  s g·v  +  s²/2 v·Hv  +  …

so the gradient's prediction, the first term, is wrong by a tenth where the second is a tenth of it:

    s = 0.2 |g·v| / |v·Hv|

One Hessian-vector product says that in advance. Here it is tried, along four directions.
"""

# %%
import numpy as np
import picture

import numgpt
from numgpt import calculus

show = picture.script(__doc__)  # --plot FILE draws
numgpt.use("reference")  # the arrays are small: plain NumPy is as fast, and compiles nothing
numgpt.set_threads(1)  # a second one gains nothing

# A small GPT after some steps on texts that count upwards, now and then with a slip.
config = numgpt.Config(vocab_size=16, block_size=12, n_layer=2, n_head=2, n_embd=16)
model = numgpt.GPT(config, seed=0, dtype="float64")
rng = np.random.default_rng(0)


def batch(rows):
    """Tokens and targets (rows, 12)."""
    text = (rng.integers(0, 16, (rows, 1)) + np.arange(13)) % 16
    text = np.where(rng.random(text.shape) < 0.1, rng.integers(0, 16, text.shape), text)
    return text[:, :-1], text[:, 1:]


optimizer = numgpt.AdamW(model, weight_decay=0.0)
for _step in range(60):
    optimizer.step(model.loss_and_grads(*batch(16))[1], lr=3e-3)
tokens, targets = batch(24)
loss, grads = model.loss_and_grads(tokens, targets)
g = grads.flat
print(f"loss {loss:.4f}, ‖g‖ {np.linalg.norm(g):.4f}, ‖θ‖ {np.linalg.norm(model.params.flat):.2f}")

# %% [markdown]
"""The directions: against the gradient; the signs of it, as Adam's first step goes; at random; and one
weight alone, that with the largest gradient."""


# %%
def unit(v):
    """v with length 1."""
    return v / np.linalg.norm(v)


weight = np.zeros_like(g)
weight[abs(g).argmax()] = -np.sign(g[abs(g).argmax()])
directions = {
    "−gradient": unit(-g),
    "−its signs": unit(-np.sign(g)),
    "at random": unit(rng.standard_normal(g.size)),
    "one weight": weight,
}


def change(s, v):
    """What the loss gains by a step of length s along v."""
    moved = model.astype("float64")
    moved.params.flat += s * v
    return moved.loss(tokens, targets) - loss


def reach(v, share, bound):
    """The first step at which the prediction is wrong by that share of itself, found by halving."""
    low, high = 0.0, bound
    for _ in range(40):
        s = (low + high) / 2
        wrong = abs(change(s, v) - s * (g @ v)) > share * abs(s * (g @ v))
        low, high = (low, s) if wrong else (s, high)
    return high


print(
    "\ndirection      g·v      v·Hv   a tenth wrong at s: foreseen  measured   half wrong: foreseen  measured"
)
curves = {}
for name, v in directions.items():
    slope, bend = g @ v, v @ calculus.hvp(model, tokens, targets, v).flat
    foreseen = 0.2 * abs(slope / bend)
    tenth, half = reach(v, 0.1, 10 * foreseen), reach(v, 0.5, 30 * foreseen)
    steps = f"{foreseen:29.4f}  {tenth:8.4f}  {5 * foreseen:20.4f}  {half:8.4f}"
    print(f"{name:10} {slope:8.4f}  {bend:8.4f}  {steps}")
    curves[name] = slope, bend, foreseen
    assert 0.75 < tenth / foreseen < 1.33

# %% [markdown]
"""Below the point where the prediction fails, what it leaves is the second term, so it falls with s².
The table shows both predictions against the gradient."""

# %%
slope, bend, foreseen = curves["−gradient"]
v = directions["−gradient"]
print("\nstep against the gradient  actual      g·δ         g·δ + δ·Hδ/2")
for s in foreseen * np.array([0.01, 0.1, 1, 5, 10, 20]):
    print(f"{s:25.5f}  {change(s, v):10.6f}  {s * slope:10.6f}  {s * slope + s * s / 2 * bend:10.6f}")
left = [abs(change(s, v) - s * slope) for s in foreseen * np.array([0.01, 0.1])]
assert 90 < left[1] / left[0] < 110


# %%
def draw(figure):
    """What the loss does along each direction, and what g·δ says."""
    for ax, (name, v) in zip(figure.subplots(1, 4, sharey=False), directions.items()):
        slope, bend, foreseen = curves[name]
        s = np.linspace(0, 12 * foreseen, 40)
        ax.plot(s, [change(x, v) for x in s], color="#1a1a1a", label="loss")
        ax.plot(s, s * slope, "--", color="#d55e00", label="g·δ")
        ax.plot(s, s * slope + s * s / 2 * bend, ":", color="#1f4e8c", label="+ δ·Hδ/2")
        ax.axvline(foreseen, color="#707070", linewidth=0.8)
        ax.set(title=name, xlabel="length of δ")
    figure.axes[0].set(ylabel="change of the loss")
    figure.axes[0].legend()


show(draw, (11, 3.2))
print("\nThe gradient predicts as far as the curvature lets it, and that is known before the step is taken.")
