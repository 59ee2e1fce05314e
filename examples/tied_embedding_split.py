# %% [markdown]
"""A tied embedding learns at two places: what comes from the head and what from the look-up, by frequency?

The matrix W (V, C) is read in the forward twice. So its gradient has two parts,

    dW_v  =  Σ_n (p_n − [v = target_n]) x_n / N        from the head: every row, at every position n
          +  Σ_n [v = token_n] dx_n                     from the look-up: only rows of tokens that are there

A trace keeps them apart. A token that is not in the batch has no look-up, and yet it moves: the head
pushes it away from what was there instead.
"""

# %%
import numpy as np
import picture

import numgpt

show = picture.script(__doc__)  # --plot FILE draws
numgpt.use("reference")  # the arrays are small: plain NumPy is as fast, and compiles nothing
numgpt.set_threads(1)  # a second one gains nothing

# Tokens by Zipf's law, p_v ∝ 1/v, each pair of them followed by a third that it decides.
V, T = 64, 16
config = numgpt.Config(vocab_size=V, block_size=T, n_layer=2, n_head=2, n_embd=32)
zipf = 1 / np.arange(1, V + 1)
zipf /= zipf.sum()


def batch(seed, rows=16):
    """Tokens and targets (rows, T), of which every third repeats the token before it."""
    text = np.random.default_rng(seed).choice(V, (rows, T + 1), p=zipf)
    text[:, 2::3] = text[:, 1::3][:, : text[:, 2::3].shape[1]]
    return text[:, :-1], text[:, 1:]


def norms(array):
    """The length of each row."""
    return np.linalg.norm(array, axis=-1)


def unit(vector):
    """The same direction, length 1."""
    return vector / np.linalg.norm(vector)


def split(model, seed):
    """(part of the head, part of the look-up, how often each token stands in the batch)"""
    tokens, targets = batch(seed)
    trace = model.record(tokens, targets).trace(["wte.weight"])
    head, lookup = (trace.parts["wte.weight"][place] for place in ("lm_head", "wte"))
    assert (head + lookup == trace.grad["wte.weight"]).all(), "to the bit"
    return head, lookup, np.bincount(np.append(tokens, targets[:, -1]), minlength=V)


BINS = (("absent", 0, 0), ("once", 1, 1), ("2–4", 2, 4), ("5–15", 5, 15), ("16 or more", 16, 10**9))


def table(model):
    """Print the parts by frequency, over eight batches.  → bin → (‖head‖, ‖look-up‖)"""
    print("in the batch  tokens    ‖head‖  ‖look-up‖  look-up's share  head, cosine with the bin's mean")
    head, lookup, seen = map(np.concatenate, zip(*(split(model, 10**6 + n) for n in range(8))))
    rows = {}
    for name, low, high in BINS:
        chosen = (seen >= low) & (seen <= high)
        a, b = norms(head[chosen]).mean(), norms(lookup[chosen]).mean()
        alike = head[chosen] @ unit(head[chosen].mean(0)) / norms(head[chosen])
        rows[name] = a, b, alike.mean()
        print(f"{name:12}  {chosen.sum():6}  {a:8.4f}  {b:9.4f}  {b / (a + b):15.2f}  {alike.mean():10.2f}")
    return rows


model = numgpt.GPT(config, seed=0)
print("at the start")
first = table(model)
optimizer = numgpt.AdamW(model, weight_decay=0.0)
for step in range(200):
    optimizer.step(model.loss_and_grads(*batch(step))[1], lr=3e-3)
print("\nafter 200 steps")
after = table(model)

# %%
for rows in (first, after):
    assert rows["absent"][0] > 0 == rows["absent"][1], "no look-up, and yet a gradient"
    # Absent tokens are all pushed the same way: away from what was there.
    assert rows["absent"][2] > 0.9 > rows["2–4"][2]
    for name in list(rows)[1:]:
        assert rows[name][0] > rows[name][1] > 0


def share(rows):
    """The look-up's part of the two, in the tokens that are there."""
    return np.mean([b / (a + b) for a, b, _ in list(rows.values())[1:]])


print(f"\nlook-up's share where there is one: {share(first):.2f} at first, {share(after):.2f} after training")
assert share(after) < 0.5 * share(first)


# %%
def draw(figure):
    """Both parts by frequency, at the start and after training."""
    axes = figure.subplots(1, 2, sharey=True)
    for ax, rows, title in zip(axes, (first, after), ("at the start", "after 200 steps")):
        at = np.arange(len(BINS))
        ax.bar(at - 0.2, [row[0] for row in rows.values()], 0.4, label="from the head", color="#1f4e8c")
        ax.bar(at + 0.2, [row[1] for row in rows.values()], 0.4, label="from the look-up", color="#d55e00")
        ax.set_xticks(at, list(rows))
        ax.set(yscale="log", title=title, xlabel="times in the batch")
    axes[0].set(ylabel="‖gradient of the row‖")
    axes[0].legend()


show(draw, (9.6, 4))
print("The head moves every row, those of absent tokens all the same way; the look-up those that are there.")
