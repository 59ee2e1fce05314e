# %% [markdown]
"""Does gradient descent train at the edge of stability: does lr·λ₁ hover near 2?

On a parabola of curvature λ a step of gradient descent multiplies the distance to the minimum by 1 − lr
λ, so it diverges where lr λ > 2. A network's loss is no parabola. Cohen et al. (2021) found that its
sharpness, the largest eigenvalue λ₁ of the Hessian, grows in training until it meets 2/lr, and then
stays there: the learning rate chooses the sharpness. Here λ₁ of a small GPT is followed, by exact
Hessian-vector products.
"""

# %%
import numpy as np
import picture

import numgpt
from numgpt import calculus

show = picture.script(__doc__)  # --plot FILE draws
numgpt.use("reference")  # the arrays are small: plain NumPy is as fast, and compiles nothing
numgpt.set_threads(1)  # a second one gains nothing
config = numgpt.Config(vocab_size=8, block_size=8, n_layer=1, n_head=2, n_embd=16)
rng = np.random.default_rng(0)
text = (rng.integers(0, 8, (16, 1)) + np.arange(9)) % 8  # counts upwards, now and then with a slip
text = np.where(rng.random(text.shape) < 0.1, rng.integers(0, 8, text.shape), text)
tokens, targets = text[:, :-1], text[:, 1:]  # the whole of the data: every step sees all of it
STEPS, EVERY = 500, 25


def sharpest(model):
    """The largest eigenvalue of the Hessian, to a hundredth, and its direction."""
    top = calculus.top_eigenvalues(model, tokens, targets, tolerance=1e-2, steps=20)
    return float(top.values[0]), top.vectors[0].flat


def descent(lr):
    """Plain gradient descent.  → (the model, losses, λ₁ every EVERY steps)"""
    model = numgpt.GPT(config, seed=0, dtype="float64")
    losses, sharpness = [], []
    for step in range(STEPS + 1):
        if step % EVERY == 0:
            sharpness.append(sharpest(model)[0])
        loss, grads = model.loss_and_grads(tokens, targets)
        losses.append(float(loss))
        model.params.flat -= lr * grads.flat
    return model, np.array(losses), np.array(sharpness)


# %%
rates = (0.05, 0.1, 0.2, 0.4)
print(
    "  lr   λ₁ at the start   median of the last two thirds   lr·λ₁: lower quarter   median   upper quarter"
)
runs = {}
for lr in rates:
    runs[lr] = descent(lr)
    sharpness = runs[lr][2]
    late = sharpness[len(sharpness) // 3 :]
    quarters = np.quantile(lr * late, (0.25, 0.5, 0.75))
    print(
        f"{lr:4}  {sharpness[0]:16.1f}  {np.median(late):30.1f}  ", "  ".join(f"{q:13.2f}" for q in quarters)
    )
    # Three seeds gave medians from 2.2 to 2.8 at these rates.
    assert 1.8 < quarters[1] < 3.3
settled = {lr: np.median(run[2][len(run[2]) // 3 :]) for lr, run in runs.items()}
assert 5 < settled[0.05] / settled[0.4] < 13, "eight times the rate, an eighth of the sharpness"
assert settled[0.05] > 2 * runs[0.05][2][0] > 4 * settled[0.4], "it grows to the edge, or falls to it"

# %% [markdown]
"""So it hovers near 2, but above it, from 2.2 to 2.8, and with spikes. A slice through the loss along
the sharpest direction shows how a run can live there: the walls are less steep than the parabola's,
so a step that is too long for the parabola comes back."""

# %%
lr = 0.2
model, losses, _ = runs[lr]
value, v = sharpest(model)
slope = model.loss_and_grads(tokens, targets)[1].flat @ v
at = np.linspace(-1.5, 1.5, 61)


def along(direction):
    """The loss at θ + s direction, for each s."""
    moved = model.astype("float64")
    result = []
    for s in at:
        moved.params.flat[:] = model.params.flat + s * direction
        result.append(float(moved.loss(tokens, targets)))
    return np.array(result)


random = rng.standard_normal(model.n_params)
slices = {"sharpest": along(v), "at random": along(random / np.linalg.norm(random))}
parabola = slices["sharpest"][30] + at * slope + at**2 / 2 * value
print(f"\nslice at lr {lr}, loss at distance   −1.5    −0.5     0      0.5     1.5")
for name, values in (*slices.items(), ("parabola", parabola)):
    print(f"{name:32}", "  ".join(f"{x:6.3f}" for x in values[[0, 20, 30, 40, 60]]))
assert parabola[[0, 60]].min() > 1.5 * slices["sharpest"][[0, 60]].max(), "flatter than the parabola"
assert np.ptp(slices["at random"]) < 0.1 * np.ptp(slices["sharpest"])
upward = (np.diff(losses) > 0).mean()
print(f"the loss rises in {upward:.0%} of the steps, and falls from {losses[0]:.2f} to {losses[-1]:.2f}")
assert losses[-1] < 0.2 * losses[0] and upward > 0.05


# %%
def draw(figure):
    """lr·λ₁ in training, and the loss along two directions."""
    left, right = figure.subplots(1, 2)
    for rate, (_, _, sharpness) in runs.items():
        left.plot(np.arange(len(sharpness)) * EVERY, rate * sharpness, ".-", label=f"lr {rate}")
    left.axhline(2, color="#707070", linewidth=1, linestyle="--")
    left.set(xlabel="step", ylabel="lr·λ₁", ylim=(0, 6), title="the edge of stability")
    left.legend()
    for name, values in slices.items():
        right.plot(at, values, label=name)
    right.plot(at, parabola, ":", color="#707070", label="parabola")
    right.set(xlabel="distance along the direction", ylabel="loss", title=f"a slice of the loss, lr {lr}")
    right.set(ylim=(0, 1.2 * slices["sharpest"].max()))
    right.legend()


show(draw, (9.6, 4))
print("lr·λ₁ hovers near 2, somewhat above it: the learning rate chooses how sharp the minimum is.")
