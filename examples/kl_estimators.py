# %% [markdown]
"""Which gradient has an estimator of a divergence, when it is used as a loss?

A policy p is held near a fixed model q by the divergence KL(p‖q) = E_p[d] with d = ln p − ln q. From what p
sampled it is estimated by k1 = d, k2 = d²/2 or k3 = e^−d − 1 + d. What an estimate is on average is one
question. What its gradient is on average is another, for the samples depend on the policy too, and no
backward goes through a sample. Here nothing is sampled: texts of two tokens are so few that all of them are
added up, each with its probability, and the answers are exact.
"""

# %%
import numpy as np

import numgpt
from numgpt import ops

numgpt.use("reference")  # the arrays are small: plain NumPy is as fast, and compiles nothing
V = 4
rng = np.random.default_rng(0)
# Models are tables of logits (1 + V, V): row 0 is of a text's first token, row 1 + a of the one behind an a.
policy, fixed = 1.5 * rng.standard_normal((2, 1 + V, V))
old = policy + 0.3 * rng.standard_normal((1 + V, V))  # the policy some steps ago, when it sampled


def log_softmax(logits):
    """ln p, row by row, of complex numbers too."""
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def complex_step(function, table):
    """The gradient of a function of a table: what an imaginary step of 1e-30 in each number gives."""
    steps = 1e-30j * np.eye(table.size).reshape(-1, *table.shape)
    return np.array([function(table + step).imag / 1e-30 for step in steps]).reshape(table.shape)


# %% [markdown]
"""One token: the row of the first one alone. A loss of a token v has a gradient by the backward of its op,
and what an optimizer follows is the mean of these gradients over the tokens that come."""

# %%
tokens = np.arange(V)
seen = np.tile(policy[0], (V, 1))  # the same logits for each of the tokens that may come
logp, saved = ops.token_logprobs.forward(seen, tokens)
logq, logold = (ops.token_logprobs(np.tile(table[0], (V, 1)), tokens) for table in (fixed, old))


def over_tokens(op, sampler, *constants):
    """(mean value, mean gradient) of an op as a loss, over tokens from a sampler of log-probabilities."""
    weights = np.exp(sampler)
    y, kept = op.forward(logp, *constants)
    dlogp = op.backward(weights, kept)[0]
    return (weights * y).sum(), ops.token_logprobs.backward(dlogp, saved)[0].sum(0)


p, q = log_softmax(policy[0]), log_softmax(fixed[0])
KL = (np.exp(p) * (p - q)).sum()
TO_FIXED = complex_step(lambda z: (np.exp(log_softmax(z)) * (log_softmax(z) - q)).sum(), policy[0])
FROM_FIXED = complex_step(lambda z: (np.exp(q) * (q - log_softmax(z))).sum(), policy[0])
FAR = 1e-2  # what is called different differs by more, and what is called the same by less than 1e-12
CALLED = {"0": 0 * TO_FIXED, "∇KL(p‖q)": TO_FIXED, "∇KL(q‖p)": FROM_FIXED}


def name_of(gradient, called):
    """What a gradient is called; how far it is from the first divergence's, where it is none of them."""
    names = [name for name, known in called.items() if abs(gradient - known).max() < 1e-12]
    apart = abs(gradient - called["∇KL(p‖q)"]).max() / abs(called["∇KL(p‖q)"]).max()
    assert len(names) == 1 or (not names and apart > FAR)
    return names[0] if names else f"neither: {100 * apart:.0f} % off ∇KL(p‖q)"


def shown(title, rows, called):
    """Print name → (value, gradient) as a table; name → (value, what the gradient is called)."""
    found = {name: (value, name_of(gradient, called)) for name, (value, gradient) in rows.items()}
    print(f"{title}\n{'':28} {'value':>8}   gradient as a loss")
    for name, (value, gradient) in found.items():
        print(f"{name:28} {value:8.4f}   {gradient}")
    print()
    return found


# k1 in the reward is a constant there, and the policy's gradient multiplies it: E_p[d ∇ ln p].
d = ops.k1(logp, logq)
of_reward = ops.token_logprobs.backward(np.exp(p) * d, saved)[0].sum(0)
rows = {
    "k1": over_tokens(ops.k1, p, logq),
    "k2": over_tokens(ops.k2, p, logq),
    "k3": over_tokens(ops.k3, p, logq),
    "k1 in the reward": ((np.exp(p) * d).sum(), of_reward),
    "ρ k3, sampled by p": over_tokens(ops.k3, p, logq, logp),
    "ρ k3, sampled by an older p": over_tokens(ops.k3, logold, logq, logold),
    "k3, sampled by an older p": over_tokens(ops.k3, logold, logq),
}
found = shown(f"one token of {V}, KL(p‖q) = {KL:.4f}", rows, CALLED)
unbiased = {name for name, (value, _) in found.items() if abs(value - KL) < 1e-12}
assert unbiased == rows.keys() - {"k2", "k3, sampled by an older p"}
assert found["k1"][1] == "0" and found["k3"][1] == "∇KL(q‖p)"
rest = ("k2", "k1 in the reward", "ρ k3, sampled by p", "ρ k3, sampled by an older p")
assert {found[name][1] for name in rest} == {"∇KL(p‖q)"}
assert found["k3, sampled by an older p"][1].startswith("neither")

# %% [markdown]
"""Texts of two tokens. Their divergence is that of the first token and the mean of those of the second. Its
gradient has a part that no token's own divergence has: which first token leads to where p and q agree. An
estimate of each token alone leaves that part out."""

# %%
first, second = (grid.reshape(-1) for grid in np.meshgrid(tokens, tokens, indexing="ij"))
texts = np.stack([first, second], 1)  # (V², 2): all there are
places = np.stack([0 * first, 1 + first], 1)  # the rows of a table that their tokens are drawn by
logp, saved = ops.token_logprobs.forward(policy[places], texts)  # (V², 2)
logq = ops.token_logprobs(fixed[places], texts)
chance = np.exp(logp.sum(1, keepdims=True))  # of each text


def over_texts(dlogp):
    """The gradient with respect to the table: of each text's tokens, added where their rows are."""
    gradient = np.zeros_like(policy)
    np.add.at(gradient, places, ops.token_logprobs.backward(chance * dlogp, saved)[0])
    return gradient


def each(op, *constants):
    """(mean value, mean gradient) of an op of tokens as a loss, added up over a text."""
    y, kept = op.forward(logp, *constants)
    return (chance * y).sum(), over_texts(op.backward(np.ones_like(y), kept)[0])


def summed(op):
    """The same of an op of texts, which reads the sums of their log-probabilities."""
    y, kept = op.forward(logp.sum(1), logq.sum(1))
    dsum = op.backward(np.ones_like(y), kept)[0]
    return (chance[:, 0] * y).sum(), over_texts(np.stack([dsum, dsum], 1))


def divergence(table, other):
    """KL of the texts of a table from those of another."""
    both = [log_softmax(t)[places, texts].sum(1) for t in (table, other)]
    return (np.exp(both[0]) * (both[0] - both[1])).sum()


KL = divergence(policy, fixed)
CALLED = {
    "0": 0 * policy,
    "∇KL(p‖q)": complex_step(lambda table: divergence(table, fixed), policy),
    "∇KL(q‖p)": complex_step(lambda table: divergence(fixed, table), policy),
}
d = ops.k1(logp, logq)
to_go = d[:, ::-1].cumsum(1)[:, ::-1]  # what comes with a token and behind it
whole = np.broadcast_to(d.sum(1, keepdims=True), d.shape)
value = (chance * d).sum()
rows = {
    "k1, of tokens or texts": summed(ops.k1),
    "k2 of each token": each(ops.k2, logq),
    "k2 of the text": summed(ops.k2),
    "k3 of each token": each(ops.k3, logq),
    "k3 of the text": summed(ops.k3),
    "ρ k3 of each token": each(ops.k3, logq, logp),
    "k1 in the token's reward": (value, over_texts(d)),
    "k1 in the reward to go": (value, over_texts(to_go)),
    "k1 in the text's reward": (value, over_texts(whole)),
}
found = shown(f"texts of two tokens, KL(p‖q) = {KL:.4f}", rows, CALLED)
assert {name for name, (value, _) in found.items() if abs(value - KL) > 1e-12} == {
    "k2 of each token",
    "k2 of the text",
}
right = {name for name, (_, gradient) in found.items() if gradient == "∇KL(p‖q)"}
assert right == {"k2 of the text", "k1 in the reward to go", "k1 in the text's reward"}
assert found["k1, of tokens or texts"][1] == "0" and found["k3 of the text"][1] == "∇KL(q‖p)"
# Three ways to the same gradient: each token's own divergence, its context given.
own = rows["k2 of each token"][1]
for name in ("ρ k3 of each token", "k1 in the token's reward"):
    assert abs(rows[name][1] - own).max() < 1e-12

print(
    "As a loss k1 does nothing. k2 of a text's sum, and k1 in the reward to go, have the gradient of KL(p‖q)."
)
