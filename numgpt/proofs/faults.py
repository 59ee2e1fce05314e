"""Wrong gradients that other people wrote, each planted in the function that does the same here.

Where a project is named, the fault or the report of it was read there; #n are its issues and pull requests.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A fault that was seen, and whose; the module and function that it goes into; and how."""

    seen: str
    module: str
    function: str
    changes: tuple[tuple[str, str], ...]  # (text that stands there once, text in its place)
    swaps_forward: bool = False


SCORES = "dscores = probs * (dprobs - (probs * dprobs).sum(-1, keepdims=True))"
MEAN = "g.mean(-1, keepdims=True)"
VARIANCE = MEAN + " - xhat * (g * xhat).mean(-1, keepdims=True)"
ROWS = "logits.reshape(-1, logits.shape[-1])"
SOFTMAX = f"dlogits = np.exp({ROWS} - top)"
TARGET = "dlogits[np.arange(len(ids), like=ids), np.where(counted, ids, 0)] -= counted"
IS_TARGET = "np.arange(dlogits.shape[-1]) == ids[:, None]"
COUNTED = "dlogits = np.where(counted[:, None], dlogits * (dy * (1 / count)), dlogits.dtype.type(0))"
DPO = "dy * beta * (label_noise - sigmoids(h)[1])"

FAULTS = (
    Fault(
        "rows of repeated ids keep the last gradient only (harrrshall/numpygrad's negative control;"
        " HIPS/autograd #39)",
        "numgpt.ops.embedding",
        "embedding_backward",
        (("add_at(dweight, ids, dy)", "dweight[ids] += dy"),),
    ),
    Fault(
        "the tied head's gradient is computed, then dropped (Ultron09/Numpy-Transformer)",
        "numgpt.layers.record",
        "Record._add",
        (("place += grad", "place[...] = grad"),),
    ),
    Fault(
        "dv from the probabilities before dropout (Ultron09/Numpy-Transformer)",
        "numgpt.ops.attention",
        "attend_backward",
        (
            (
                "dv = product(dropped(probs, keep, p).swapaxes(-1, -2), dy)",
                "dv = product(probs.swapaxes(-1, -2), dy)",
            ),
        ),
    ),
    Fault(
        "erf GELU differentiated as its tanh form (mixed up in karpathy/nanoGPT #2, keras-bert #129)",
        "numgpt.ops.activations",
        "gelu_backward",
        (("return (dy * (normal_cdf(x) + near * pdf),)", "return gelu_tanh_backward(dy, saved)"),),
    ),
    Fault(
        "tanh GELU differentiated as its erf form (karpathy/nanoGPT runs GPT-2's tanh weights through erf)",
        "numgpt.ops.activations",
        "gelu_tanh_backward",
        (("return (dy * (s + 2 * near * s * (1 - s) * slope),)", "return gelu_backward(dy, saved)"),),
    ),
    Fault(
        "LayerNorm's mean taken as a constant (first of the four commonest by uesina15-max's count)",
        "numgpt.ops.norms",
        "layernorm_backward",
        (("(g - g.mean(-1, keepdims=True) - ", "(g - "),),
    ),
    Fault(
        "LayerNorm's variance taken as a constant (uesina15-max)",
        "numgpt.ops.norms",
        "layernorm_backward",
        ((VARIANCE, MEAN),),
    ),
    Fault(
        "C − 1 for C in the gradient of the variance (the unbiased form, which is the default of torch.var)",
        "numgpt.ops.norms",
        "layernorm_backward",
        ((VARIANCE, MEAN + " - xhat * (g * xhat).sum(-1, keepdims=True) / (C - 1)"),),
    ),
    Fault(
        "LayerNorm's weight and bias never trained (TinyTorch #1504, masked there by its own test)",
        "numgpt.ops.norms",
        "layernorm_backward",
        (("return dx, dweight, dbias", "return dx, 0 * dweight, 0 * dbias if has_bias else None"),),
    ),
    Fault(
        "softmax differentiated entry by entry, p (1 − p), in attention (uesina15-max)",
        "numgpt.ops.attention",
        "attend_backward",
        ((SCORES, "dscores = probs * (1 - probs) * dprobs"),),
    ),
    Fault(
        "softmax without Σ P dP in attention (the term that an entry-by-entry derivation does not have)",
        "numgpt.ops.attention",
        "attend_backward",
        ((SCORES, "dscores = probs * dprobs"),),
    ),
    Fault(
        "softmax differentiated entry by entry in the loss: −(1/p) p (1 − p) at the target, 0 elsewhere"
        " (uesina15-max)",
        "numgpt.ops.losses",
        "cross_entropy_backward",
        ((TARGET, f"dlogits = np.where({IS_TARGET}, dlogits - 1, dlogits.dtype.type(0))"),),
    ),
    Fault(
        "the skip past the feed-forward lost (uesina15-max)",
        "numgpt.layers.transformer",
        "pre_norm_block_backward",
        (('dx = dx + r.back("ln_2", r.back("mlp", da))', 'dx = r.back("ln_2", r.back("mlp", da))'),),
    ),
    Fault(
        "the skip past attention lost (uesina15-max)",
        "numgpt.layers.transformer",
        "pre_norm_block_backward",
        (('return dx + r.back("ln_1", r.back("attn", da))', 'return r.back("ln_1", r.back("attn", da))'),),
    ),
    Fault(
        "dweight as a mean over the rows (uesina15-max: the batch axis ignored)",
        "numgpt.ops.linear",
        "linear_backward",
        (("product(rows.swapaxes(0, 1), drows) if", "product(rows.swapaxes(0, 1), drows) / len(rows) if"),),
    ),
    Fault(
        "dweight of the first row only (uesina15-max: the batch axis ignored)",
        "numgpt.ops.linear",
        "linear_backward",
        (("product(rows.swapaxes(0, 1), drows) if", "product(rows[:1].swapaxes(0, 1), drows[:1]) if"),),
    ),
    Fault(
        "dbias summed over the batch, but of the last position only",
        "numgpt.ops.linear",
        "linear_backward",
        (
            (
                "dbias = sum_rows(drows) if has_bias",
                "dbias = dy[..., -1, :].reshape(-1, dy.shape[-1]).sum(0) if has_bias",
            ),
        ),
    ),
    Fault(
        "attention's scale forgotten in dq",
        "numgpt.ops.attention",
        "attend_backward",
        (("dq = product(dscores, k) * form.scale", "dq = product(dscores, k)"),),
    ),
    Fault(
        "attention's scale forgotten in dk",
        "numgpt.ops.attention",
        "attend_backward",
        (("product(dscores.swapaxes(-1, -2), q) * form.scale", "product(dscores.swapaxes(-1, -2), q)"),),
    ),
    Fault(
        "the causal mask forgotten in the backward",
        "numgpt.ops.attention",
        "attend_backward",
        (("np.exp(masked_scores(q, k, form) - top)", "np.exp(q @ k.swapaxes(-1, -2) * form.scale - top)"),),
    ),
    Fault(
        "targets of −1 counted in the gradient of the loss",
        "numgpt.ops.losses",
        "cross_entropy_backward",
        ((COUNTED, "dlogits = dlogits * (dy * (1 / count))"),),
    ),
    Fault(
        "the loss's gradient divided by all B·T targets, not by those that count (huggingface/transformers"
        " #34191, huggingface/trl #7249)",
        "numgpt.ops.losses",
        "cross_entropy_backward",
        (("dy * (1 / count)", "dy * (1 / len(ids))"),),
    ),
    Fault(
        "the temperature of sampling left out of the gradient (lm-human-preferences has it in both)",
        "numgpt.ops.likelihoods",
        "token_logprobs_backward",
        (("dy[..., None] * (1 / temperature) * (expected", "dy[..., None] * (expected"),),
    ),
    Fault(
        "padding counted as text (in returns: natolambert/rlhf-book #216, areal-project/AReaL #1346)",
        "numgpt.ops.likelihoods",
        "token_logprobs_backward",
        (("return np.where((targets >= 0)[..., None], dlogits, 0), None", "return dlogits, None"),),
    ),
    Fault(
        "the token that ends a text masked, as where padding is the same token (huggingface/trl #1623 #3091)",
        "numgpt.ops.likelihoods",
        "token_logprobs_backward",
        (("(targets >= 0)[..., None], dlogits", "(targets > 0)[..., None], dlogits"),),
    ),
    Fault(
        "a micro-batch's gradient divided by its own tokens, not by those of the whole step",
        "numgpt.ops.means",
        "token_mean_backward",
        (("return mean, (share,)", "return mean, (weights / weights.sum(),)"),),
        swaps_forward=True,
    ),
    Fault(
        "the sign of DPO's gradient turned",
        "numgpt.ops.preferences",
        "dpo_backward",
        ((DPO, "dy * beta * (sigmoids(h)[1] - label_noise)"),),
    ),
    Fault(
        "chosen and rejected exchanged in DPO's gradient",
        "numgpt.ops.preferences",
        "dpo_backward",
        ((f"dchosen = {DPO}", f"drejected = {DPO}\n    dchosen = -drejected"),),
    ),
    Fault(
        "a ratio that PPO has clipped pushes on",
        "numgpt.ops.policies",
        "ppo_backward",
        (("np.where(held, 0, dy * y)", "dy * y"),),
    ),
    Fault(
        "PPO's surrogate climbed down: the sign of the advantage turned",
        "numgpt.ops.policies",
        "ppo_backward",
        (("np.where(held, 0, dy * y)", "np.where(held, 0, -dy * y)"),),
    ),
    Fault(
        "the sign of the divergence turned, which drives the policy away from the fixed model",
        "numgpt.ops.policies",
        "k2_backward",
        (("dy * (logp - fixed)", "dy * (fixed - logp)"),),
    ),
    Fault(
        "the ratio that weighs a divergence taken for a constant, which gives the gradient of another one",
        "numgpt.ops.policies",
        "k3_backward",
        (("np.exp(logp - old) * d", "np.exp(logp - old) * -np.expm1(-d)"),),
    ),
    Fault(
        "padding counted in the statistics of whitening",
        "numgpt.ops.means",
        "whiten_backward",
        (("np.where(share != 0, dy, 0)", "dy"),),
    ),
    Fault(
        "the statistics of whitening taken for constants",
        "numgpt.ops.means",
        "whiten_backward",
        (("g - share * of_mean - xhat * share * along", "g"),),
    ),
    Fault(
        "the reward read one token before the last (huggingface/transformers #35352)",
        "numgpt.ops.pooling",
        "last_token_backward",
        (("np.arange(T, like=places) == places", "np.arange(T, like=places) + 1 == places"),),
    ),
    Fault(
        "dx too large by one part in 1e9, which central differences cannot tell",
        "numgpt.ops.norms",
        "layernorm_backward",
        (("return dx, dweight, dbias", "return dx * (1 + 1e-9), dweight, dbias"),),
    ),
    Fault(
        "what the backward needs is kept on the function, so a second forward overwrites that of the first"
        " (ddbourgin/numpy-ml)",
        "numgpt.ops.linear",
        "linear_backward",
        (
            (
                "return y, (x, weight, bias is not None)",
                "linear_forward.last = x, weight, bias is not None\n    return y, None",
            ),
            ("x, weight, has_bias = saved", "x, weight, has_bias = linear_forward.last"),
        ),
        swaps_forward=True,
    ),
    Fault(
        "a NumPy scalar turns float32 into float64 (jaymody/picoGPT)",
        "numgpt.ops.activations",
        "gelu_backward",
        (("(1 / math.sqrt(2 * math.pi))", "(1 / np.sqrt(2 * np.pi))"),),
    ),
    Fault(
        "the result is written over dy, which the caller still needs for the skip",
        "numgpt.ops.activations",
        "relu_backward",
        (("return (np.where(positive, dy, dy.dtype.type(0)),)", "dy *= positive\n    return (dy,)"),),
    ),
    Fault(
        "the probabilities are written over the logits",
        "numgpt.ops.losses",
        "cross_entropy_backward",
        ((SOFTMAX, f"rows = {ROWS}\n    {SOFTMAX.replace(f'{ROWS} - top', 'rows - top, out=rows')}"),),
    ),
)
