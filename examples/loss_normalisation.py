# %% [markdown]
"""What should a loss be divided by when a batch is split into parts with unequal numbers of targets?

The mean over N targets is the sum over all of them divided by N. Split into k micro-batches with n_1 …
n_k targets that count, the mean of the micro-batches' means is

    1/k Σ_i 1/n_i Σ_{targets of i} ℓ  =  1/N Σ_i N/(k n_i) Σ_{targets of i} ℓ

so each target of part i has weight N/(k n_i) instead of 1: in short texts each token counts for more.
Trainers of the field have had this error for years (transformers #34191, nanoGPT #206). Dividing by N
mends it.
"""

# %%
import numpy as np
import picture

import numgpt

show = picture.script(__doc__)  # --plot FILE draws
numgpt.use("reference")  # the arrays are small: plain NumPy is as fast, and compiles nothing
numgpt.set_threads(1)  # a second one gains nothing
T = 16
config = numgpt.Config(vocab_size=12, block_size=T, n_layer=2, n_head=2, n_embd=24)

# %% [markdown]
"""Two kinds of text share their letters and disagree: short ones, of 3 targets, count upwards by 1;
long ones, of 15, by 5; a tenth of all letters is noise. The rest of each row is padding, whose
targets are −1."""


# %%
def rows(rng, n, length, stride):
    """Tokens and targets (n, T) of which the first `length` count."""
    text = (rng.integers(0, 12, (n, 1)) + stride * np.arange(T + 1)) % 12
    text = np.where(rng.random(text.shape) < 0.1, rng.integers(0, 12, text.shape), text)
    targets = text[:, 1:].copy()
    targets[:, length:] = -1
    return text[:, :-1], targets


def parts(seed):
    """Four micro-batches (4, T): two of short texts, two of long ones."""
    rng = np.random.default_rng(seed)
    return [rows(rng, 4, length, stride) for length, stride in ((3, 1), (15, 5), (3, 1), (15, 5))]


def accumulated(model, batch, way):
    """(loss, gradient) of micro-batches, added up one of two ways."""
    counts = [int((targets >= 0).sum()) for _, targets in batch]
    total, grads = 0.0, model.params.like()
    for (tokens, targets), n in zip(batch, counts):
        # Divided by N, the parts add up to the mean; the other way by their own n, and then by k.
        count = sum(counts) if way == "over all" else n * len(batch)
        loss, _ = model.loss_and_grads(tokens, targets, count=count, out=grads, add=True)
        total += loss
    return total, grads


model = numgpt.GPT(config, seed=0, dtype="float64")
batch = parts(0)
whole_loss, whole = model.loss_and_grads(*map(np.concatenate, zip(*batch)))
counts = np.array([(targets >= 0).sum() for _, targets in batch])
N, k = counts.sum(), len(counts)
print(f"targets of the micro-batches {counts.tolist()}, N = {N}")
print("weight of a target in the mean of means:", *(f"{N / (k * n):.2f}" for n in counts))
print("\nway             loss       difference of the gradient from that of the whole batch, relative")
for way in ("over all", "mean of means"):
    loss, grads = accumulated(model, batch, way)
    off = np.linalg.norm(grads.flat - whole.flat) / np.linalg.norm(whole.flat)
    print(f"{way:14}  {loss:.6f}   {off:.1e}")
    if way == "over all":
        assert off < 1e-13 and abs(loss / whole_loss - 1) < 1e-14  # four roundings of sums
    else:
        wrong = sum(
            N / (k * n) * model.loss_and_grads(*part, count=N)[1].flat for part, n in zip(batch, counts)
        )
        assert np.linalg.norm(grads.flat - wrong) < 1e-13 * np.linalg.norm(wrong), "the weights are N/(k n_i)"
        assert off > 0.01

# %% [markdown]
"""Does it matter? Two models with the same start and the same batches, one for each way, and their loss
per target on each kind of text. The first letter of a text does not say which kind it is, so there
the model has to weigh them. Weighted alike it is one half each. Weighted 3 to 0.6, the odds of the
next letter of a short text are 5 to 1, and the two losses differ by ln 5 in all targets but those
that are noise, a share of 0.1 · 11/12."""

# %%
STEPS = 150
held = {
    "short": rows(np.random.default_rng(10**6), 200, 3, 1),
    "long": rows(np.random.default_rng(10**7), 200, 15, 5),
}
first = {name: (tokens[:, :1], targets[:, :1]) for name, (tokens, targets) in held.items()}
results = {}
print(f"\nafter {STEPS} steps: loss at the first target  short   long   difference  foreseen")
for way, foreseen in (("over all", 0.0), ("mean of means", np.log(5) * (1 - 0.1 * 11 / 12))):
    model = numgpt.GPT(config, seed=0)
    optimizer = numgpt.AdamW(model, weight_decay=0.0)
    for step in range(STEPS):
        _, grads = accumulated(model, parts(step + 1), way)
        optimizer.step(grads, lr=3e-3)
    short, long = results[way] = [float(model.loss(*first[name])) for name in held]
    print(f"{way:40}  {short:.3f}  {long:.3f}  {long - short:10.2f}  {foreseen:8.2f}")
    # Each loss is a mean over 200 texts, with a standard error of 0.1; and the models have not converged.
    assert abs(long - short - foreseen) < 0.4


# %%
def draw(figure):
    """The loss at the first target of either kind of text, by the way of dividing."""
    ax = figure.subplots()
    at = np.arange(len(results))
    for shift, name, colour in ((-0.2, "short texts", "#1f4e8c"), (0.2, "long texts", "#d55e00")):
        heights = [losses[list(held).index(name.split()[0])] for losses in results.values()]
        ax.bar(at + shift, heights, 0.4, label=name, color=colour)
    ax.set_xticks(at, ["divided by N", "mean of the micro-batches' means"])
    ax.set(ylabel="loss at the first target, nats", title="who counts for more?")
    ax.legend()


show(draw, (6, 4))
print("Divide by the number of targets in the whole batch: a mean of means weighs short texts more.")
