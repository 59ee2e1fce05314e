# %% [markdown]
"""What does AdamW do to one weight, step by step, and what is each part of it for?

    m ← β₁ m + (1 − β₁) g        m̂ = m / (1 − β₁ᵗ)
    v ← β₂ v + (1 − β₂) g²       v̂ = v / (1 − β₂ᵗ)
    w ← w − lr λ w − lr m̂ / (√v̂ + eps)

Each part is computed by hand, held to the optimizer's numbers, and then left out, to see what it was
for.
"""

# %%
import copy

import numpy as np
import picture

import numgpt

show = picture.script(__doc__)  # --plot FILE draws
numgpt.use("reference")  # the arrays are small: plain NumPy is as fast, and compiles nothing
numgpt.set_threads(1)  # a second one gains nothing
config = numgpt.Config(vocab_size=16, block_size=12, n_layer=1, n_head=2, n_embd=16)
b1, b2, eps, decay, lr, STEPS = 0.9, 0.999, 1e-8, 0.1, 3e-3, 40


def batch(seed):
    """Tokens and targets (16, 12) of texts that count upwards, now and then with a slip."""
    rng = np.random.default_rng(seed)
    text = (rng.integers(0, 16, (16, 1)) + np.arange(13)) % 16
    text = np.where(rng.random(text.shape) < 0.1, rng.integers(0, 16, text.shape), text)
    return text[:, :-1], text[:, 1:]


model = numgpt.GPT(config, seed=0, dtype="float64")
optimizer = numgpt.AdamW(model, betas=(b1, b2), eps=eps, weight_decay=decay, clip=None)
NAME, AT = "h.0.mlp.c_fc.weight", (3, 5)
w, m, v = float(model.params[NAME][AT]), 0.0, 0.0
print(f"{NAME}[{AT[0]}, {AT[1]}]\nstep       g         m̂        √v̂      m̂/√v̂   decay, lr λ w   w")
history = []
for t in range(1, STEPS + 1):
    _, grads = model.loss_and_grads(*batch(t))
    g = float(grads[NAME][AT])
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
    mhat, vhat = m / (1 - b1**t), v / (1 - b2**t)
    step, pull = lr * mhat / (vhat**0.5 + eps), lr * decay * w
    w = w - pull - step
    optimizer.step(grads, lr)
    history.append((g, mhat, vhat**0.5, step / lr, w))
    if t in (1, 2, 3, 5, 10, 20, 40):
        print(f"{t:4}  {g:8.5f}  {mhat:8.5f}  {vhat**0.5:8.5f}  {step / lr:8.4f}  {pull:12.1e}  {w:12.8f}")
    # Ten roundings a step, and each step's are added to those before it.
    assert abs(w - model.params[NAME][AT]) <= 10 * t * np.finfo(float).eps * (abs(w) + lr)
    assert np.isclose(optimizer.m[NAME][AT], m, rtol=1e-13) and np.isclose(
        optimizer.v[NAME][AT], v, rtol=1e-13
    )

# %% [markdown]
"""**The first step has length lr in every weight**, whatever the gradient: m̂ = g, √v̂ = |g|. And later
none is longer than lr (1 − β₁)/√(1 − β₂), which is 3.2 lr here: that is where one large gradient
comes after silence.

**The scale of the loss does not matter.** A loss a thousand times as large gives the same steps, but
for eps.

**Without bias correction** the first steps are (1 − β₁ᵗ)/√(1 − β₂ᵗ) times as long: 3.2 at first. With β
= (0.9, 0.99), which are numgpt's defaults, the first is just right, as 0.1 = √0.01, and then they grow."""


# %%
def first_steps(scale=1.0, n=1, correct=True, betas=(b1, b2)):
    """The parameters' change over n steps of a fresh model, over lr; no decay."""
    fresh = numgpt.GPT(config, seed=0, dtype="float64")
    start = fresh.params.flat.copy()
    adam = numgpt.AdamW(fresh, betas=betas, weight_decay=0.0, clip=None)
    moved = [start]
    for t in range(1, n + 1):
        _, grads = fresh.loss_and_grads(*batch(t))
        grads.flat *= scale
        rate = lr if correct else lr * (1 - betas[0] ** t) / np.sqrt(1 - betas[1] ** t)
        adam.step(grads, rate)
        moved.append(fresh.params.flat.copy())
    return np.diff(moved, axis=0) / lr


one = first_steps()[0]
_, grads = numgpt.GPT(config, seed=0, dtype="float64").loss_and_grads(*batch(1))
large = abs(grads.flat) > 1e3 * eps  # where eps counts for less than a thousandth
print(f"\nfirst step: |change| / lr from {abs(one[large]).min():.4f} to {abs(one[large]).max():.4f}")
assert (abs(abs(one[large]) - 1) < 1e-3).all() and (np.sign(one[large]) == -np.sign(grads.flat[large])).all()

longest = max(abs(first_steps(n=20)).max(1))
print(f"longest of 20 steps: {longest:.3f} lr, never over {(1 - b1) / (1 - b2) ** 0.5:.3f} lr")
assert longest <= (1 - b1) / (1 - b2) ** 0.5

scaled = first_steps(scale=1000.0)[0]
print(f"loss × 1000: the steps change by {abs(scaled - one)[large].max():.0e} of lr")
assert abs(scaled - one)[large].max() < 1.1e-3

for betas in ((0.9, 0.999), (0.9, 0.99)):
    plain = first_steps(n=8, correct=False, betas=betas)
    ratio = [float(np.median(abs(p))) for p in plain]
    print(
        f"no bias correction, β {betas}: the median of the first steps is", *(f"{x:.2f}" for x in ratio[:4])
    )
    assert abs(ratio[0] - (1 - betas[0]) / np.sqrt(1 - betas[1])) < 0.01

# %% [markdown]
"""**Decay is decoupled.** It pulls every weight by lr λ w. As L2 in the loss, λ w would be divided by
√v̂ like any gradient, so a weight with small gradients would be pulled hard, and one with large
gradients hardly. One step more, with either and without, shows the pull of each weight."""


# %%
def next_step(weight_decay=0.0, l2=0.0):
    """The change of the weights of the feed-forward in the step after these."""
    other, adam = copy.deepcopy((model, optimizer))
    adam.weight_decay = weight_decay
    before = other.params[NAME].copy()
    _, grads = other.loss_and_grads(*batch(STEPS + 1))
    grads[NAME] += l2 * before
    adam.step(grads, lr)
    return (other.params[NAME] - before).ravel()


small = 1e-5  # λ, so small that v does not feel it
size = np.sqrt(optimizer.v[NAME].ravel() / (1 - b2**STEPS))
order = np.argsort(size)
lower, upper = np.split(order, 4)[0], np.split(order, 4)[3]
unit = lr * small * model.params[NAME].ravel()
pulls = {
    "decoupled": (next_step() - next_step(weight_decay=small)) / unit,
    "L2": (next_step() - next_step(l2=small)) / unit,
}
low, high = np.median(size[lower]), np.median(size[upper])
print(f"\npull of the decay, in lr λ w:   √v̂ small ({low:.4f})  large ({high:.4f})")
for name, pull in pulls.items():
    print(f"{name:28} {np.median(pull[lower]):16.2f}  {np.median(pull[upper]):16.2f}")
assert abs(pulls["decoupled"] - 1).max() < 1e-6
ratio = np.median(pulls["L2"][lower]) / np.median(pulls["L2"][upper])
assert 0.7 < ratio / (high / low) < 1.4, "as 1/√v̂"


# %%
def draw(figure):
    """One weight's gradient and step, and the pull of either decay on all weights."""
    left, right = figure.subplots(1, 2)
    g, mhat, root, step, _ = np.array(history).T
    left.plot(g, ".", color="#707070", label="g")
    left.plot(mhat, color="#1f4e8c", label="m̂")
    left.plot(root, color="#d55e00", label="√v̂")
    left.set(xlabel="step", title=f"one weight, {NAME}")
    left.legend()
    for name, colour in (("L2", "#d55e00"), ("decoupled", "#1f4e8c")):
        right.loglog(size, pulls[name], ".", color=colour, label=name)
    right.set(xlabel="√v̂", ylabel="pull of the decay, in lr λ w", title="who is pulled to 0?")
    right.legend()


show(draw, (9.6, 4))
print(
    "A step is lr long whatever the loss's scale; corrected at the start; and decay pulls all weights alike."
)
