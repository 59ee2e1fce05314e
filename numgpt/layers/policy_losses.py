"""Losses of reinforcement: sampled responses become likelier, or less so, by how good each token was."""

from ..ops import Op, add, clipped_value, embedding, k2, k3, ppo, scaled, token_logprobs, token_mean
from .layer import Layer
from .task_heads import pooled_backward, pooled_forward
from .transformer import (
    trunk_backward,
    trunk_forward,
    unembedded_backward,
    unembedded_forward,
)

# weights (..., T) are above 0 where a target is a token of a response, 0 elsewhere. old, fixed: the
# log-probabilities of the targets when they were sampled, and under the model that is not to be left. old
# None: the policy is still the one that sampled, so its own log-probabilities are the old ones, as constants.
# places (..., T): where rows are shared, the number of the token that takes a place's part.
# temperature: that of sampling, in the loss as well. count: what sums are divided by.
# tell: is given what the forward computes of the policy; nothing of the loss depends on it.

# How far a token is from the fixed model: an op, and what it reads of (fixed, old).
DISTANCES = {
    "k2": (k2, lambda fixed, old: (fixed,)),
    "k3": (k3, lambda fixed, old: (fixed, None)),
    "rho_k3": (k3, lambda fixed, old: (fixed, old)),
}


# Vectors by their numbers, as embedding looks up rows, but of what is no parameter.
picked = Op("...<V, VC -> ...C", embedding.forward, embedding.backward, saves="ids")


def logits_forward(r, tokens, places=None):
    """The logits behind tokens (..., T), or where rows are shared behind those whose numbers are places."""
    x = trunk_forward(r, tokens)
    if places is not None:
        r.tell("shared", x.shape)
        x = r("picked", picked, places, x.reshape(-1, x.shape[-1]))
    return unembedded_forward(r, x)


def logits_backward(r, dlogits):
    """Send gradients to all parameters."""
    dx = unembedded_backward(r, dlogits)
    if "shared" in r.told:
        (shape,) = r.told["shared"]
        dx = r.back("picked", dx).reshape(shape)
    trunk_backward(r, dx)


def policy_logprobs(temperature=1.0):
    """The layer of scoring: the log-probability of each target."""

    def forward(r, tokens, targets, places=None):
        """tokens, targets (..., T) → (..., T), 0 where a target is negative"""
        logits = logits_forward(r, tokens, places)
        return r("logp", token_logprobs, logits, targets, temperature=temperature)

    def backward(r, dlogp):
        """Gradients of forward."""
        logits_backward(r, r.back("logp", dlogp))

    return Layer(forward, backward)


def policy(temperature=1.0, clip=0.2, clip_high=None, beta=0.0, distance="k3", tell=None):
    """The layer of a policy's loss: PPO's surrogate, and how far the policy is from the fixed model.

        loss = Σ w (−min(ρ A, clip(ρ) A) + beta · distance) / count

    distance: "k2", "k3" or "rho_k3", k3 times ρ: an estimate of the divergence that is differentiated.
    """

    def forward(r, tokens, targets, weights, old, advantages, fixed=None, count=None, places=None):
        """All (..., T) → ()"""
        logits = logits_forward(r, tokens, places)
        logp = r("logp", token_logprobs, logits, targets, temperature=temperature)
        if tell is not None:
            tell(logp)
        old = logp if old is None else old
        each = r("surrogate", ppo, logp, old, advantages, clip=clip, clip_high=clip_high)
        mean = r("policy", token_mean, each, weights, count=count)
        if not beta:
            return mean
        op, read = DISTANCES[distance]
        apart = r("apart", op, logp, *read(fixed, old))
        apart = r("kl", token_mean, apart, weights, count=count)
        return r("loss", add, mean, r("kl_part", scaled, apart, factor=beta))

    def backward(r, dloss):
        """Gradients of forward."""
        dlogp = 0.0
        if beta:
            dloss, dapart = r.back("loss", dloss)
            dlogp = r.back("apart", r.back("kl", r.back("kl_part", dapart)))
        logits_backward(r, r.back("logp", r.back("surrogate", r.back("policy", dloss)) + dlogp))

    return Layer(forward, backward)


def policy_and_values(temperature=1.0, clip=0.2, value_clip=0.2, value_weight=0.1, tell=None):
    """The layer of PPO with a critic: the surrogate, and the squared error of the values that a head gives.

    loss = Σ w (−min(ρ A, clip(ρ) A) + value_weight · the clipped value's) / count
    """

    def forward(r, tokens, targets, weights, old, advantages, old_values, returns, count=None):
        """All (..., T) → ()"""
        x = trunk_forward(r, tokens)
        values = pooled_forward(r, x, None, "none")[..., 0]
        logp = r("logp", token_logprobs, unembedded_forward(r, x), targets, temperature=temperature)
        if tell is not None:
            tell(logp, values)
        each = r("surrogate", ppo, logp, old, advantages, clip=clip)
        mean = r("policy", token_mean, each, weights, count=count)
        wrong = r("wrong", clipped_value, values, old_values, returns, clip=value_clip)
        wrong = r("value", token_mean, wrong, weights, count=count)
        return r("loss", add, mean, r("value_part", scaled, wrong, factor=value_weight))

    def backward(r, dloss):
        """Gradients of forward: the stream is read by the unembedding and by the values' head."""
        dpolicy, dwrong = r.back("loss", dloss)
        dx = unembedded_backward(r, r.back("logp", r.back("surrogate", r.back("policy", dpolicy))))
        dvalues = r.back("wrong", r.back("value", r.back("value_part", dwrong)))
        trunk_backward(r, dx + pooled_backward(r, dvalues[..., None]))

    return Layer(forward, backward)


def logprobs_and_values(temperature=1.0):
    """The layer of scoring with a critic."""

    def forward(r, tokens, targets):
        """tokens, targets (..., T) → (log-probabilities, values), each (..., T)"""
        x = trunk_forward(r, tokens)
        values = pooled_forward(r, x, None, "none")[..., 0]
        return r("logp", token_logprobs, unembedded_forward(r, x), targets, temperature=temperature), values

    def backward(r, dy):
        """Gradients of forward."""
        dlogp, dvalues = dy
        dx = unembedded_backward(r, r.back("logp", dlogp))
        trunk_backward(r, dx + pooled_backward(r, dvalues[..., None]))

    return Layer(forward, backward)
