# %% [markdown]
"""Who may learn from whom: is the gradient of a loss exactly zero at what its position must not see?

The loss at position t alone is sent backwards, and the gradient's norm at the embedding of position s
is entry (t, s) of a matrix. Causal means: above the diagonal the matrix is 0.0. Not small, for what is
not seen has probability 0, and 0 times anything is 0. A window, packed documents, a prefix each have a
matrix of their own.
"""

# %%
import numpy as np
import picture

import numgpt
from numgpt import Visibility

show = picture.script(__doc__)  # --plot FILE draws
numgpt.use("reference")  # the arrays are small: plain NumPy is as fast, and compiles nothing
numgpt.set_threads(1)  # a second one gains nothing
T = 10
config = numgpt.Config(vocab_size=17, block_size=T, n_layer=2, n_head=2, n_embd=16)
narrow = numgpt.Config(vocab_size=17, block_size=T, n_layer=2, n_head=2, n_embd=16, window=3)
rng = np.random.default_rng(0)
tokens, targets = rng.integers(0, 17, (2, 1, T))


def model_of(settings):
    """A model whose weights are large enough that everything depends on everything that it may."""
    model = numgpt.GPT(settings, seed=0, dtype="float64")
    model.params.flat += 0.3 * np.random.default_rng(1).standard_normal(model.n_params)
    return model


def matrix(model, visibility=None):
    """‖∂loss_t/∂embedding_s‖ for each t and s, by a backward for each t.  → (T, T)"""
    rows = []
    for t in range(T):
        alone = np.full_like(targets, -1)  # a negative target does not count
        alone[0, t] = targets[0, t]
        record = model.record(tokens, alone, keep=["drop"], visibility=visibility)
        rows.append(np.linalg.norm(record.grad["drop"][0], axis=-1))
    return np.array(rows)


# %% [markdown]
"""What is expected: with W tokens to a window and L layers, information travels L (W − 1) positions."""

# %%
t, s = np.indices((T, T))
documents = np.repeat([0, 1, 2], (4, 3, 3))
leak = Visibility(last=np.minimum(np.arange(T) + 1, T - 1))  # a mask that is off by one
cases = {
    "causal": (model_of(config), None, s <= t),
    "window of 3, two layers": (model_of(narrow), None, (s <= t) & (t - s <= 2 * (3 - 1))),
    "three documents packed": (
        model_of(config),
        Visibility.packed([[4, 3, 3]]),
        (s <= t) & (documents[t] == documents[s]),
    ),
    "a prefix of 4": (model_of(config), Visibility.prefix([4], T=T), (s <= t) | ((s < 4) & (t < 4))),
    "mask off by one": (model_of(config), leak, s <= t),
}
print("visibility               entries not 0  that should be  that should not  least that should be")
found = {}
for name, (model, visibility, expected) in cases.items():
    found[name] = matrix(model, visibility)
    leaks = int(((found[name] != 0) & ~expected).sum())
    least = found[name][expected].min()
    hit = int(((found[name] != 0) & expected).sum())
    print(f"{name:24} {np.count_nonzero(found[name]):13}  {hit:14}  {leaks:15}  {least:20.1e}")
    assert hit == expected.sum(), "each position depends on all that it may see"
    # Off by one in each of two layers: two diagonals above the first, 9 and 8 entries.
    assert leaks == (9 + 8 if name == "mask off by one" else 0)

causal = found["causal"]
print("\ncausal, in units of its largest entry; a dot is exactly 0.0")
for row in causal / causal.max():
    print("  ".join(f"{x:5.3f}" if x else "    ·" for x in row))
assert (causal[np.triu_indices(T, 1)] == 0.0).all()


# %%
def draw(figure):
    """The matrices; grey is exactly 0."""
    for ax, (name, norms) in zip(figure.subplots(1, len(found)), found.items()):
        ax.imshow(np.ma.masked_equal(norms, 0), cmap="Blues", vmin=0)
        ax.set_facecolor("#e4e4e4")
        ax.set(title=name, xlabel="embedding s", xticks=[0, 5], yticks=[0, 5])
        ax.title.set_fontsize(9)
    figure.axes[0].set(ylabel="loss at t")


show(draw, (12, 3))
print("\nWhat a position must not see has gradient 0.0, not a small one; a mask off by one shows at once.")
