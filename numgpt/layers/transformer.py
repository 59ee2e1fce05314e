"""The GPT, written out in both directions: each backward undoes its forward line by line, last line first."""

from ..ops import (
    add,
    combine,
    cross_entropy,
    dispatch,
    dropout,
    embedding,
    expert_linear,
    linear,
    opened,
    route,
    unembedding,
)
from ..ops.activations import ACTIVATIONS
from ..ops.experts import chosen_experts
from .heads import HEADS
from .layer import Layer
from .pickers import (
    added,
    cap,
    embedding_norm,
    factor,
    form,
    head_bias,
    key_norm,
    last_norm,
    norm,
    query_norm,
    turned,
)


def attention_forward(r, x):
    """Read from earlier positions.  x (..., T, C) → (..., T, C)"""
    qkv = r("c_attn", linear, x)
    qkv = query_norm(r, "ln_q", qkv)
    qkv = key_norm(r, "ln_k", qkv)
    qkv = turned(r, "turned", qkv)
    y = r("heads", HEADS[r.config.sink], qkv, **form(r, x))
    y = r("c_proj", linear, y)
    y = factor(r, "scale", y, r.config.residual_scale)
    return r("resid_dropout", dropout, y)


def attention_backward(r, dy):
    """Gradient of attention_forward with respect to x."""
    dy = r.back("resid_dropout", dy)
    dy = r.back("scale", dy)
    dy = r.back("c_proj", dy)
    dqkv = r.back("heads", dy)
    dqkv = r.back("turned", dqkv)
    dqkv = r.back("ln_k", dqkv)
    dqkv = r.back("ln_q", dqkv)
    return r.back("c_attn", dqkv)


def ffn_forward(r, x):
    """Think about what was read, each position by itself.  x (..., C) → (..., C)"""
    h = r("c_fc", linear, x)
    a = r("act", ACTIVATIONS[r.config.activation].op, h)
    y = r("c_proj", linear, a)
    y = factor(r, "scale", y, r.config.residual_scale)
    return r("dropout", dropout, y)


def ffn_backward(r, dy):
    """Gradient of ffn_forward with respect to x."""
    dy = r.back("dropout", dy)
    dy = r.back("scale", dy)
    da = r.back("c_proj", dy)
    dh = r.back("act", da)
    return r.back("c_fc", dh)


def experts_forward(r, x):
    """Think by a few of many feed-forwards, chosen for each position by a router.  x (..., C) → (..., C)"""
    c = r.config
    logits = r("router", linear, x)
    chosen = r.decide("chosen", chosen_experts, logits, c.n_expert_active)
    r.tell("router", logits, chosen)
    weights = r("route", route, logits, chosen, renorm=c.router == "renorm")
    rows = r("dispatch", dispatch, x, n_active=c.n_expert_active)
    h = r("c_fc", expert_linear, rows, chosen)
    a = r("act", ACTIVATIONS[c.activation].op, h)
    z = r("c_proj", expert_linear, a, chosen)
    y = r("combine", combine, z, weights)
    y = factor(r, "scale", y, c.residual_scale)
    return r("dropout", dropout, y)


def experts_backward(r, dy):
    """Gradient of experts_forward with respect to x: through what was computed, and through who was asked."""
    dy = r.back("dropout", dy)
    dy = r.back("scale", dy)
    dz, dweights = r.back("combine", dy)
    da = r.back("c_proj", dz)
    dh = r.back("act", da)
    dx = r.back("dispatch", r.back("c_fc", dh))
    dlogits = r.back("route", dweights)
    return dx + r.back("router", dlogits)


def shared_experts_forward(r, x):
    """Experts, and beside them one feed-forward that every position asks, opened by a gate."""
    y = experts_forward(r, x)
    s = r("shared", ffn, x)
    s = r("opened", opened, r("shared_gate", linear, x), s)
    return r("sum", add, y, s)


def shared_experts_backward(r, dy):
    """Gradient of shared_experts_forward with respect to x."""
    dy, ds = r.back("sum", dy)
    dgate, ds = r.back("opened", ds)
    dx = r.back("shared_gate", dgate)
    dx = dx + r.back("shared", ds)
    return dx + experts_backward(r, dy)


causal_attention = Layer(attention_forward, attention_backward)
ffn = Layer(ffn_forward, ffn_backward)
# The layer of a block that is called mlp.
MLPS = {
    "dense": ffn,
    "experts": Layer(experts_forward, experts_backward),
    "shared": Layer(shared_experts_forward, shared_experts_backward),
}


def pre_norm_block_forward(r, x):
    """A block of GPT-2, GPT-3 and LLaMA: each part adds to the stream what it makes of a normalised copy."""
    x = r("mid", add, x, r("attn", causal_attention, norm(r, "ln_1", x)))
    return r("out", add, x, r("mlp", MLPS[r.config.mlp], norm(r, "ln_2", x)))


def pre_norm_block_backward(r, dy):
    """Gradient of pre_norm_block_forward with respect to x: a sum passes its gradient to both terms."""
    dx, da = r.back("out", dy)
    dx = dx + r.back("ln_2", r.back("mlp", da))
    dx, da = r.back("mid", dx)
    return dx + r.back("ln_1", r.back("attn", da))


def post_norm_block_forward(r, x):
    """A block of GPT-1: each sum is normalised, so nothing passes a block untouched."""
    x = norm(r, "ln_1", r("mid", add, x, r("attn", causal_attention, x)))
    return norm(r, "ln_2", r("out", add, x, r("mlp", MLPS[r.config.mlp], x)))


def post_norm_block_backward(r, dy):
    """Gradient of post_norm_block_forward with respect to x."""
    dx, da = r.back("out", r.back("ln_2", dy))
    dx = dx + r.back("mlp", da)
    dx, da = r.back("mid", r.back("ln_1", dx))
    return dx + r.back("attn", da)


def out_norm_block_forward(r, x):
    """A block of OLMo 2: what each part gives is normalised, and the stream itself never is."""
    x = r("mid", add, x, norm(r, "ln_1", r("attn", causal_attention, x)))
    return r("out", add, x, norm(r, "ln_2", r("mlp", MLPS[r.config.mlp], x)))


def out_norm_block_backward(r, dy):
    """Gradient of out_norm_block_forward with respect to x."""
    dx, da = r.back("out", dy)
    dx = dx + r.back("mlp", r.back("ln_2", da))
    dx, da = r.back("mid", dx)
    return dx + r.back("attn", r.back("ln_1", da))


def both_norm_block_forward(r, x):
    """A block of Gemma 2: a norm before each part, and one of what it gives."""
    x = r("mid", add, x, norm(r, "ln_1_out", r("attn", causal_attention, norm(r, "ln_1", x))))
    return r("out", add, x, norm(r, "ln_2_out", r("mlp", MLPS[r.config.mlp], norm(r, "ln_2", x))))


def both_norm_block_backward(r, dy):
    """Gradient of both_norm_block_forward with respect to x."""
    dx, da = r.back("out", dy)
    dx = dx + r.back("ln_2", r.back("mlp", r.back("ln_2_out", da)))
    dx, da = r.back("mid", dx)
    return dx + r.back("ln_1", r.back("attn", r.back("ln_1_out", da)))


def parallel_block_forward(r, x):
    """A block of GPT-J: attention and feed-forward read one normalised copy, and both add to the stream."""
    n = norm(r, "ln_1", x)
    x = r("mid", add, x, r("attn", causal_attention, n))
    return r("out", add, x, r("mlp", MLPS[r.config.mlp], n))


def parallel_block_backward(r, dy):
    """Gradient of parallel_block_forward with respect to x: what two parts read gets both gradients."""
    dx, da = r.back("out", dy)
    dn = r.back("mlp", da)
    dx, da = r.back("mid", dx)
    dn = dn + r.back("attn", da)
    return dx + r.back("ln_1", dn)


def two_norm_parallel_block_forward(r, x):
    """A block of GPT-NeoX: attention and feed-forward each read a normalised copy of the same stream."""
    n = norm(r, "ln_2", x)
    x = r("mid", add, x, r("attn", causal_attention, norm(r, "ln_1", x)))
    return r("out", add, x, r("mlp", MLPS[r.config.mlp], n))


def two_norm_parallel_block_backward(r, dy):
    """Gradient of two_norm_parallel_block_forward with respect to x."""
    dx, da = r.back("out", dy)
    dn = r.back("mlp", da)
    dx, da = r.back("mid", dx)
    dx = dx + r.back("ln_1", r.back("attn", da))
    return dx + r.back("ln_2", dn)


pre_norm_block = Layer(pre_norm_block_forward, pre_norm_block_backward)
post_norm_block = Layer(post_norm_block_forward, post_norm_block_backward)
BLOCKS = {
    "pre": pre_norm_block,
    "post": post_norm_block,
    "out": Layer(out_norm_block_forward, out_norm_block_backward),
    "both": Layer(both_norm_block_forward, both_norm_block_backward),
    "parallel": Layer(parallel_block_forward, parallel_block_backward),
    "parallel2": Layer(two_norm_parallel_block_forward, two_norm_parallel_block_backward),
}


def blocks_forward(r, x, first=0):
    """From the stream that a block reads, the first unless given, to what a head reads.  x (..., T, C)"""
    for i in range(first, r.config.n_layer):
        x = r(f"h.{i}", BLOCKS[r.config.norm_position], x)
    return last_norm(r, "ln_f", x)


def blocks_backward(r, dx, first=0):
    """Gradient of blocks_forward with respect to x."""
    dx = r.back("ln_f", dx)
    for i in reversed(range(first, r.config.n_layer)):
        dx = r.back(f"h.{i}", dx)
    return dx


def trunk_forward(r, tokens):
    """From tokens to what a head reads, the stream after the last norm.  tokens (..., T) → (..., T, C)"""
    x = r("wte", embedding, tokens)
    x = factor(r, "embed_scale", x, r.config.embed_scale)
    x = added(r, "wpe", x)
    x = embedding_norm(r, "ln_emb", x)
    x = r("drop", dropout, x)
    return blocks_forward(r, x)


def trunk_backward(r, dx):
    """Send gradients to the parameters of trunk_forward; tokens have none."""
    dx = blocks_backward(r, dx)
    dx = r.back("drop", dx)
    dx = r.back("ln_emb", dx)
    dx = r.back("wpe", dx)
    dx = r.back("embed_scale", dx)
    r.back("wte", dx)


def unembedded_forward(r, x):
    """From the stream after the last norm to the logits of each next token.  x (..., T, C) → (..., T, V)"""
    logits = r("lm_head", unembedding, x, shares="wte" if r.config.tied else None)
    logits = head_bias(r, "head_bias", logits)
    logits = factor(r, "logit_scale", logits, r.config.logit_scale)
    return cap(r, "softcap", logits, r.config.final_softcap)


def unembedded_backward(r, dlogits):
    """Gradient of unembedded_forward with respect to x."""
    dlogits = r.back("softcap", dlogits)
    dlogits = r.back("logit_scale", dlogits)
    dlogits = r.back("head_bias", dlogits)
    return r.back("lm_head", dlogits)


def gpt_forward(r, tokens):
    """From tokens to the logits of each next token.  tokens (..., T) → logits (..., T, V)"""
    return unembedded_forward(r, trunk_forward(r, tokens))


def gpt_backward(r, dlogits):
    """Send gradients to all parameters."""
    trunk_backward(r, unembedded_backward(r, dlogits))


gpt = Layer(gpt_forward, gpt_backward)


def loss_forward(r, tokens, targets, count=None):
    """The mean surprise at the targets.  tokens and targets (..., T) → ()"""
    logits = gpt_forward(r, tokens)
    return r("loss", cross_entropy, logits, targets, count=count)


def loss_backward(r, dloss):
    """Gradients of loss_forward."""
    gpt_backward(r, r.back("loss", dloss))


loss = Layer(loss_forward, loss_backward)
