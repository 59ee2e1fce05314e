"""What a layer's line runs for a Config: the choices of a model family whose layers are straight lines.

A step that a model does not have is None, which the Record files so that the backward passes it by.
"""

import functools

import numpy as np

from .. import engine
from ..ops.attention_steps import attention_probs, softcap
from ..ops.elementary import scaled, shift
from ..ops.norms import NORMS
from ..ops.part_norms import PART_NORMS, heads_layernorm
from ..ops.positions import POSITIONS, alibi_slopes, turns
from ..ops.sinks import sink_probs


def norm(r, name, x):
    """The model's norm with its ε; undone by r.back(name, dy)."""
    return r(name, NORMS[r.config.norm], x, eps=r.config.layer_norm_epsilon)


def last_norm(r, name, x):
    """The norm of what the last block gives, where the block has not normalised it."""
    return norm(r, name, x) if r.config.has_final_norm else r(name, None, x)


def embedding_norm(r, name, x):
    """A norm of the embeddings, where the model has one."""
    return norm(r, name, x) if r.config.embed_norm else r(name, None, x)


def query_norm(r, name, qkv):
    """The norm of the queries among queries, keys and values, where the model has one."""
    return _part_norm(r, name, qkv, 0, r.config.n_head)


def key_norm(r, name, qkv):
    """The norm of the keys among queries, keys and values, where the model has one."""
    return _part_norm(r, name, qkv, r.config.n_head, r.config.kv_heads)


def _part_norm(r, name, qkv, first, n):
    """The norm of n heads from the first on: of each, or of all together, as long as the weight is."""
    c = r.config
    if c.qk_norm == "none":
        return r(name, None, qkv)
    begin, end = first * c.head_size, (first + n) * c.head_size
    if c.qk_norm == "each":
        return r(name, heads_layernorm, qkv, begin=begin, eps=c.layer_norm_epsilon)
    return r(name, PART_NORMS[c.norm], qkv, begin=begin, end=end, eps=c.layer_norm_epsilon)


def factor(r, name, x, c):
    """x times a setting, where that is not 1."""
    return r(name, None, x) if c == 1 else r(name, scaled, x, factor=c)


def cap(r, name, x, c):
    """x held back at ±c, where there is a c."""
    return r(name, None, x) if c is None else r(name, softcap, x, cap=c)


def head_bias(r, name, logits):
    """The bias of the unembedding, where the model has one: a parameter of lm_head."""
    return r(name, shift if r.config.has_bias("head") else None, logits, shares="lm_head")


def logits_name(config):
    """The name of the logits: of the last step behind the unembedding that the model has.

    Of GPT-2 that is the unembedding itself, "lm_head"; a cap, a scale or a bias of the head come after it.
    """
    if config.final_softcap is not None:
        return "softcap"
    if config.logit_scale != 1:
        return "logit_scale"
    return "head_bias" if config.has_bias("head") else "lm_head"


def probabilities(r, name, scores, **seen):
    """The softmax over the keys that a query sees, with the heads' sink where the model has one."""
    if r.config is None or not r.config.sink:
        return r(name, attention_probs, scores, **seen)
    return r(name, sink_probs, scores, shares=r.scope.rstrip("."), **seen)


def added(r, name, x):
    """Positions that are added to the embeddings, where the model has such."""
    kind = r.config.positions
    return r(name, None if turns(kind) else POSITIONS[kind], x, **places(r))


def turned(r, name, qkv):
    """Queries and keys turned by their positions, where the model does that; an op gets what it takes."""
    c = r.config
    if not turns(c.positions):
        return r(name, None, qkv)
    op = POSITIONS[c.positions]
    rotation = {"base": c.rotary_base, "dim": c.rotary_dim, "scaling": c.rotary_scaling}
    taken = {option: value for option, value in rotation.items() if option in op.options}
    return r(name, op, qkv, **heads_of(c), **taken, **places(r))


def heads_of(c):
    """How many heads there are, of queries and of keys and values where those are fewer."""
    return {"n_head": c.n_head} | ({} if c.n_kv_head is None else {"n_kv_head": c.n_kv_head})


def places(r):
    """Where the tokens stand: as the batch says, else one after the other, after those in a cache."""
    if r.visibility is not None and r.visibility.positions is not None:
        return {"positions": r.visibility.positions}
    return {"start": r.start} if r.start else {}


def form(r, x):
    """Attention's options for the block: its heads, what is done to the scores, and who sees whom."""
    c = r.config
    options = heads_of(c) | visible_keys(r, x)
    if c.attn_scale is not None:
        options["scale"] = c.attn_scale
    if c.softcap is not None:
        options["cap"] = c.softcap
    if c.positions == "alibi":
        options["slopes"] = engine.told_once(_slopes(c.n_head, c.alibi_scale), x)
    return options


@functools.lru_cache(maxsize=16)  # all blocks ask for the same
def _slopes(n_head, scale):
    """ALiBi's slopes times a setting, in the host's memory."""
    return scale * alibi_slopes(n_head)


def visible_keys(r, x):
    """The first and last key that each query sees, where that is not the plain causal order.

    A window of W keys, the query's own included, begins W − 1 before it; what the batch says is narrowed by
    it.
    """
    first = last = None
    if r.visibility is not None:
        first, last = r.visibility.first, r.visibility.last
    end, W = r.start + x.shape[-2], r.config.window
    if W is not None and end > W:
        begin = _window(W, r.start, end)
        narrowed = None if first is None else np.maximum(engine.known(first), begin)
        first = engine.told_once(begin, x) if narrowed is None else engine.told(narrowed, x)
    return {name: keys for name, keys in (("first", first), ("last", last)) if keys is not None}


@functools.lru_cache(maxsize=16)  # all blocks with the window ask for the same
def _window(W, start, end):
    """The first key that each query from start to end − 1 sees of W, its own included."""
    return np.maximum(np.arange(start, end) - (W - 1), 0)
