"""The GPT, written out in both directions: each backward undoes its forward line by line, last line first."""

from ..ops import attention, cross_entropy, dropout, embedding, linear, unembedding
from ..ops.activations import ACTIVATIONS
from ..ops.norms import NORMS
from ..ops.positions import POSITIONS
from .layer import Layer


def attention_forward(r, x):
    """Read from earlier positions.  x (..., T, C) → (..., T, C)"""
    qkv = r("c_attn", linear, x)
    y = r("heads", attention, qkv, n_head=r.config.n_head)
    y = r("c_proj", linear, y)
    return r("resid_dropout", dropout, y)


def attention_backward(r, dy):
    """Gradient of attention_forward with respect to x."""
    dy = r.back("resid_dropout", dy)
    dy = r.back("c_proj", dy)
    dqkv = r.back("heads", dy)
    return r.back("c_attn", dqkv)


def ffn_forward(r, x):
    """Think about what was read, each position by itself.  x (..., C) → (..., C)"""
    h = r("c_fc", linear, x)
    a = r("act", ACTIVATIONS[r.config.activation].op, h)
    y = r("c_proj", linear, a)
    return r("dropout", dropout, y)


def ffn_backward(r, dy):
    """Gradient of ffn_forward with respect to x."""
    dy = r.back("dropout", dy)
    da = r.back("c_proj", dy)
    dh = r.back("act", da)
    return r.back("c_fc", dh)


causal_attention = Layer(attention_forward, attention_backward)
ffn = Layer(ffn_forward, ffn_backward)


def norm(r, name, x):
    """The model's norm with its ε; undone by r.back(name, dy)."""
    return r(name, NORMS[r.config.norm], x, eps=r.config.layer_norm_epsilon)


def pre_norm_block_forward(r, x):
    """A block of GPT-2 and GPT-3: each part reads a normalised copy of the residual stream and adds to it."""
    x = x + r("attn", causal_attention, norm(r, "ln_1", x))
    return x + r("mlp", ffn, norm(r, "ln_2", x))


def pre_norm_block_backward(r, dy):
    """Gradient of pre_norm_block_forward with respect to x: a sum passes its gradient to both terms."""
    dx = dy + r.back("ln_2", r.back("mlp", dy))
    return dx + r.back("ln_1", r.back("attn", dx))


def post_norm_block_forward(r, x):
    """A block of GPT-1: each sum is normalised, so nothing passes a block untouched."""
    x = norm(r, "ln_1", x + r("attn", causal_attention, x))
    return norm(r, "ln_2", x + r("mlp", ffn, x))


def post_norm_block_backward(r, dy):
    """Gradient of post_norm_block_forward with respect to x."""
    dx = r.back("ln_2", dy)
    dx = r.back("ln_1", dx + r.back("mlp", dx))
    return dx + r.back("attn", dx)


pre_norm_block = Layer(pre_norm_block_forward, pre_norm_block_backward)
post_norm_block = Layer(post_norm_block_forward, post_norm_block_backward)
BLOCKS = {"pre": pre_norm_block, "post": post_norm_block}


def gpt_forward(r, tokens):
    """From tokens to the logits of each next token.  tokens (..., T) → logits (..., T, V)"""
    x = r("wte", embedding, tokens)
    x = r("wpe", POSITIONS[r.config.positions], x)
    x = r("drop", dropout, x)
    for i in range(r.config.n_layer):
        x = r(f"h.{i}", BLOCKS[r.config.norm_position], x)
    if r.config.norm_position == "pre":
        x = norm(r, "ln_f", x)
    return r("lm_head", unembedding, x, shares="wte" if r.config.tied else None)


def gpt_backward(r, dlogits):
    """Send gradients to all parameters; tokens have none."""
    dx = r.back("lm_head", dlogits)
    if r.config.norm_position == "pre":
        dx = r.back("ln_f", dx)
    for i in reversed(range(r.config.n_layer)):
        dx = r.back(f"h.{i}", dx)
    dx = r.back("drop", dx)
    dx = r.back("wpe", dx)
    r.back("wte", dx)


gpt = Layer(gpt_forward, gpt_backward)


def loss_forward(r, tokens, targets, count=None):
    """The mean surprise at the targets.  tokens and targets (..., T) → ()"""
    logits = gpt_forward(r, tokens)
    return r("loss", cross_entropy, logits, targets, count=count)


def loss_backward(r, dloss):
    """Gradients of loss_forward."""
    gpt_backward(r, r.back("loss", dloss))


loss = Layer(loss_forward, loss_backward)
