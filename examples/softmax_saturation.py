# %% [markdown]
"""Why are attention's scores divided by √D: when does a softmax saturate, and what is left of its gradient?

A query of length √D and a random key of D channels have ⟨q, k⟩ of variance D. The softmax of S normal
scores of variance σ² has, as long as σ² is below 2 ln S, the entropy

    H  =  ln Σ exp s − Σ P s  ≈  (ln S + σ²/2) − σ²  =  ln S − σ²/2

With 1/√D, σ² = 1 for every D. Without it σ² = D, and the formula ends at D = 2 ln S: beyond, a handful
of keys has all of the probability. In physics this is the random energy model, and that point is where
it freezes.
"""

# %%
import math

import numpy as np
import picture

import numgpt
from numgpt.ops import attention_probs, attention_scores

show = picture.script(__doc__)  # --plot FILE draws
numgpt.use("reference")  # the arrays are small: plain NumPy is as fast, and compiles nothing
numgpt.set_threads(1)  # a second one gains nothing
ROWS, S = 256, 256
sizes = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def measure(D, scale):
    """(entropy, mean square of ‖ds‖, median ‖ds‖) of ROWS queries with one key list of S each."""
    rng = np.random.default_rng(D)
    q, k = rng.standard_normal((ROWS, 1, D)), rng.standard_normal((ROWS, S, D))
    q *= math.sqrt(D) / np.linalg.norm(q, axis=-1, keepdims=True)
    scores, _ = attention_scores.forward(q, k, scale=scale)
    probs, saved = attention_probs.forward(scores)
    dprobs = rng.standard_normal(probs.shape)
    (dscores,) = attention_probs.backward(dprobs, saved)
    norms = np.linalg.norm(dscores, axis=-1)
    entropy = -(probs * np.log(np.maximum(probs, 1e-300))).sum(-1)
    return entropy.mean(), math.sqrt((norms**2).mean()), np.median(norms)


# %%
print(f"{S} keys: ln S = {math.log(S):.2f}, the softmax freezes at D = 2 ln S = {2 * math.log(S):.0f}\n")
print("       with 1/√D                         without")
print("   D   entropy  ‖ds‖ rms  ‖ds‖ median    entropy  ln S − D/2  ‖ds‖ rms  ‖ds‖ median")
table = {}
for D in sizes:
    scaled, plain = measure(D, 1 / math.sqrt(D)), measure(D, 1.0)
    table[D] = scaled, plain
    foreseen = math.log(S) - D / 2
    shown = f"{foreseen:10.2f}" if math.log(S) > D / 2 else f"{'frozen':>10}"
    print(
        f"{D:4}  {scaled[0]:8.3f}  {scaled[1]:8.3f}  {scaled[2]:11.3f}  {plain[0]:9.3f}  {shown}"
        f"  {plain[1]:8.3f}  {plain[2]:11.4f}"
    )

# %% [markdown]
"""The textbook says that the gradient vanishes. Here is what it does: the gradient of the scores is
*larger* without 1/√D, its mean square at every D of the table and its median up to D = 64, because it is
spread over a few keys instead of all. Beyond the freezing point it falls, but not for every query alike.
The distance between the two best scores is some √D / √(2 ln S), so the share of queries with two keys in
the race falls as 1/√D, and ‖ds‖² with it; the others have exponentially little. So the median vanishes
first, and the mean square slowly."""

# %%
for D in sizes:
    (entropy, rms, _), (plain_entropy, _, _) = table[D]
    if D >= 2:
        assert abs(entropy - (math.log(S) - 0.5)) < 0.05
        assert abs(rms / table[2][0][1] - 1) < 0.15
    if D <= 2:  # far below the freezing point; the first correction is σ² exp(σ²)/S = 0.06 at σ² = 2
        assert abs(plain_entropy - (math.log(S) - D / 2)) < 0.1
    if D >= 64:  # most of the probability lies on one key: H of two equal ones is ln 2
        assert plain_entropy < 1.2 * math.log(2)
at_64, at_512 = table[64][1], table[512][1]
print(f"\nfrom D = 64 to 512, ‖ds‖ rms falls by {at_64[1] / at_512[1]:.2f}, foreseen 8^¼ = {8**0.25:.2f};")
print(f"its median falls by {at_64[2] / at_512[2]:.0f}")
assert 1.2 < at_64[1] / at_512[1] < 2.4
assert at_64[2] / at_512[2] > 5
assert table[16][1][1] > 2 * table[16][0][1], "at first the gradient grows"
assert all(plain[1] > scaled[1] for D, (scaled, plain) in table.items() if D > 1)


# %%
def draw(figure):
    """Entropy, and the gradient that gets through, over the size of a head."""
    left, right = figure.subplots(1, 2)
    for column, name, colour in ((0, "with 1/√D", "#1f4e8c"), (1, "without", "#d55e00")):
        rows = np.array([table[D][column] for D in sizes])
        left.semilogx(sizes, rows[:, 0], "o-", base=2, color=colour, label=name)
        right.loglog(sizes, rows[:, 1], "o-", base=2, color=colour, label=f"{name}, rms")
        right.loglog(sizes, rows[:, 2], "o:", base=2, color=colour, label=f"{name}, median", fillstyle="none")
    for ax in (left, right):
        ax.axvline(2 * math.log(S), color="#707070", linewidth=0.8)
        ax.set(xlabel="D, the size of a head")
    left.set(ylabel="entropy, nats", title="who is read: all keys, or one?")
    right.set(ylabel="‖gradient of the scores‖", title="what gets through")
    left.legend()
    right.legend()


show(draw, (9.6, 4))
print("1/√D keeps entropy and gradient the same for every D; without it, attention freezes at D = 2 ln S.")
