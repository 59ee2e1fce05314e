# %% [markdown]
"""How does the gradient come through a deep model: what do 1/√(2L) and the place of the norms do?

GPT-2 divides the weights of the 2L maps that end on the residual stream by √(2L). Each of these adds
something of variance at most 1/(2L) then, so the stream's variance grows from 1 to at most 2, whatever
the depth. Without it, each adds the same, and the stream's size grows as √L; what arrives at the bottom
grows likewise against the gradient at the top. Norms after each sum (GPT-1) keep the stream at size 1,
whatever is added.
"""

# %%
import math

import numpy as np
import picture

import numgpt

show = picture.script(__doc__)  # --plot FILE draws
numgpt.use("reference")  # the arrays are small: plain NumPy is as fast, and compiles nothing
numgpt.set_threads(1)  # a second one gains nothing
C, T, V = 48, 12, 16
depths = (2, 4, 8, 16, 32)


def model_of(L, position, divided, dtype="float64"):
    """A model whose maps keep variance: weights of variance 1/inputs, those onto the stream perhaps /2L."""
    sizes = {"vocab_size": V, "block_size": T, "n_layer": L, "n_head": 4, "n_embd": C}
    model = numgpt.GPT(numgpt.Config(**sizes, norm_position=position), seed=0, dtype=dtype)
    for name, array in model.params.items():
        if name.startswith("h.") and array.ndim == 2:
            onto_stream = divided and name.endswith("c_proj.weight")
            array *= math.sqrt(1 / len(array)) / array.std() / (math.sqrt(2 * L) if onto_stream else 1)
    for name in ("wte.weight", "wpe.weight"):
        model.params[name] *= math.sqrt(0.5) / model.params[name].std()
    return model


def batch(seed, rows=4):
    """Tokens and targets (rows, T): random letters, then the same once more; only these count."""
    half = np.random.default_rng(seed).integers(0, V, (rows, T // 2 + 1))
    text = np.concatenate([half, half], axis=1)[:, : T + 1]
    targets = text[:, 1:].copy()
    targets[:, : T // 2] = -1
    return text[:, :-1], targets


def profile(model):
    """(size of the stream, norm of its gradient), below the first block and after each."""
    names = ["drop", *(f"h.{i}" for i in range(model.config.n_layer))]
    record = model.record(*batch(0), keep=names)
    stream = np.array([math.sqrt((record.value[name] ** 2).mean()) for name in names])
    return stream, np.array([np.linalg.norm(record.grad[name]) for name in names])


# %%
kinds = {
    "pre, 1/√(2L)": ("pre", True),
    "pre": ("pre", False),
    "post, 1/√(2L)": ("post", True),
    "post": ("post", False),
}
print("at the start: size of the stream at the top, and how much larger its gradient is at the bottom")
print(f"{'norms':14}" + "".join(f"       L = {L:<3}" for L in depths))
profiles = {}
for name, (position, divided) in kinds.items():
    profiles[name] = {L: profile(model_of(L, position, divided)) for L in depths}
    cells = (f"{stream[-1]:6.2f} {grads[0] / grads[-1]:6.2f}" for stream, grads in profiles[name].values())
    print(f"{name:14}" + " ".join(cells))

# %% [markdown]
"""After some training: what of it is left, and who has learned?"""

# %%
STEPS, DEEP = 100, 12
print(f"\n{DEEP} blocks after {STEPS} steps at lr 1e-3    stream   gradient, bottom / top   loss")
trained, losses = {}, {}
for name, (position, divided) in kinds.items():
    model = model_of(DEEP, position, divided, "float32")
    optimizer = numgpt.AdamW(model, weight_decay=0.0)
    for step in range(STEPS):
        _, grads = model.loss_and_grads(*batch(step + 1, 12))
        optimizer.step(grads, lr=1e-3)
    stream, grads = trained[name] = profile(model)
    losses[name] = float(model.loss(*batch(10**6, 64)))
    print(f"{name:42} {stream[-1]:6.2f}  {grads[0] / grads[-1]:16.1e}  {losses[name]:13.3f}")

# %% [markdown]
"""At the start norms after each sum look best: stream and gradient are flat. But that does not last:
where the norms stand in the way of the stream, the gradient that reaches the bottom dies within
these steps, and the model learns nothing at this rate. Norms before each part leave the stream free,
and the model learns."""

# %%
tops = {name: [profiles[name][L][0][-1] for L in depths] for name in kinds}
assert max(tops["pre, 1/√(2L)"]) < math.sqrt(2)  # variance 1 + 2L/(2L) at most
assert max(tops["pre, 1/√(2L)"]) / min(tops["pre, 1/√(2L)"]) < 1.05, "whatever the depth"
assert 1.5 < tops["pre"][-1] / tops["pre"][-3] < 2.5  # four times as deep: √4 = 2
growth = {name: [grads[0] / grads[-1] for _, grads in profiles[name].values()] for name in kinds}
assert max(growth["pre, 1/√(2L)"]) < math.sqrt(2) < 3 < max(growth["pre"])
guess = math.log(V)
for name, (position, _) in kinds.items():
    if position == "pre":
        assert losses[name] < 0.75 * guess
    else:
        assert losses[name] > 0.95 * guess
        assert trained[name][1][0] < 0.1 * trained[name][1][-1]


# %%
def draw(figure):
    """The gradient along the depth, at the start and after training."""
    left, right = figure.subplots(1, 2)
    for name, dash in zip(kinds, ("-", "--", "-.", ":")):
        _, grads = profiles[name][depths[-1]]
        left.plot(grads / grads[-1], dash, label=name)
        _, grads = trained[name]
        right.semilogy(grads / grads[-1], dash, label=name)
    left.set(xlabel="block", ylabel="gradient / that at the top", title=f"at the start, {depths[-1]} blocks")
    right.set(xlabel="block", title=f"after {STEPS} steps, {DEEP} blocks")
    left.legend()


show(draw, (9.6, 4))
print(
    "1/√(2L) makes stream and gradient independent of depth at the start; in training the gradient lives on"
)
print("where the norms stand before each part, and dies where they stand after each sum.")
