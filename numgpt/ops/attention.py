"""Causal attention: each position reads from those before it and from itself."""

import math
from typing import Any, NamedTuple

import numpy as np

from .. import engine
from ..engine.precision import FORMATS, product
from ..errors import InputError
from .op import Op

PRECISIONS = FORMATS  # in which products can be computed here


class Form(NamedTuple):
    """What makes the scores of attention from queries and keys; the defaults are the plain causal form.

    scale: factor of ⟨q, k⟩.
    cap: c of c tanh(s / c). slopes (...), one a head: times key − query, added to the scores.
    first, last: integers that broadcast to (..., T), the first and last key of each query.
    mask: booleans that broadcast to (..., T, S); False hides a key.
    """

    scale: float
    cap: float | None = None
    slopes: Any = None
    first: Any = None
    last: Any = None
    mask: Any = None


def attend_forward(
    q,
    k,
    v,
    *,
    scale=None,
    cap=None,
    slopes=None,
    first=None,
    last=None,
    mask=None,
    keep=None,
    p=0.0,
):
    """For each query a mean of the values, weighted by how well their keys match it.

        s_ts = scale ⟨q_t, k_s⟩, −∞ where t may not see s
        P = exp(s − m) / Σ exp(s − m)        the softmax over the keys, m their maximum
        y = P̃ v        P̃ = P k / (1 − p) with dropout on the probabilities, else P

    The T queries are the last T of the S positions: query t stands at i = t + S − T and sees keys 0 … i.
    scale: 1/√D unless given.
    cap: c; the scores become c tanh(s / c), before what follows (Gemma Team 2024).
    slopes (...): m of each head, whose scores gain m (s − i) (ALiBi, Press, Smith and Lewis 2022).
    first, last: integers that broadcast to (..., T); query t sees keys first … last instead of 0 … i.
    mask: booleans that broadcast to (..., T, S); False hides a key that would be seen.
    keep: booleans (..., T, S), the probabilities that dropout keeps; p: the share that it drops.
    q (..., T, D), k and v (..., S, D), S ≥ T → y (..., T, D).  Source: Vaswani et al. 2017.
    """
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    return attend_in_form(q, k, v, Form(scale, cap, slopes, first, last, mask), keep, p)


def attend_in_form(q, k, v, form, keep, p, sink=None):
    """attend_forward, its options as a Form; sink: one more score (..., 1, 1), of no key (see sinks.py)."""
    scores = masked_scores(q, k, form)
    top = scores.max(-1, keepdims=True)
    top = top if sink is None else np.maximum(top, sink)
    exps = np.exp(scores - top)
    total = exps.sum(-1, keepdims=True)
    total = total if sink is None else total + np.exp(sink - top)
    y = product(dropped(exps / total, keep, p), v)
    return y, (q, k, v, top, total, form, keep, p)


def attend_backward(dy, saved):
    """Gradients of attend_forward with respect to q, k and v.

        P = exp(s − m) / Σ exp(s − m)       again, so that the forward need not keep a (T, S) array
        dv = P̃ᵀ dy                          because y = P̃ v
        dP̃ = dy vᵀ,  dP = dP̃ k / (1 − p)
        Δ = Σ_s P dP                        the mean of dP under P
        ds = P (dP − Δ)                     because ∂P_s/∂s_r = P_s ([s = r] − P_r)
        dq = scale ds k,  dk = scale dsᵀ q  because s = scale q kᵀ;  with a cap ds is times its slope first

    In words: a score's gradient is how much better its key did than the mean key, times how much it was used;
    hidden keys have P = 0 and so get exactly nothing.

    Δ is ⟨dy, y⟩ too, which costs less. But y is not rounded as dP is: where one key takes all of P, the truth
    is ds = 0, and what would be left there is noise as large as dP's, which q and k then multiply.
    """
    q, k, v, top, total, form, keep, p = saved
    probs = np.exp(masked_scores(q, k, form) - top) / total
    dv = product(dropped(probs, keep, p).swapaxes(-1, -2), dy)
    dprobs = dropped(product(dy, v.swapaxes(-1, -2)), keep, p)
    dscores = probs * (dprobs - (probs * dprobs).sum(-1, keepdims=True))
    if form.cap is not None:
        dscores = dscores * cap_slope(product(q, k.swapaxes(-1, -2)) * form.scale, form.cap)
    dq = product(dscores, k) * form.scale
    dk = product(dscores.swapaxes(-1, -2), q) * form.scale
    return dq, dk, dv


def masked_scores(q, k, form):
    """The scores (..., T, S) of queries and keys in a Form, −∞ where a query does not see a key."""
    scores = product(q, k.swapaxes(-1, -2)) * form.scale
    if form.cap is not None:
        scores = capped(scores, form.cap)
    T, S = scores.shape[-2:]
    if form.slopes is not None:
        scores = scores + distances(T, S, form.slopes, scores)
    return np.where(visible(T, S, form, q), scores, -np.inf)


def visible(T, S, form, like):
    """Which of S keys the last T of S positions see in a Form: booleans that broadcast to (..., T, S)."""
    if form.first is None and form.last is None:
        seen = np.tri(T, S, S - T, dtype=bool, like=like)
    else:
        key = np.arange(S, like=like)
        position = np.arange(S - T, S, like=like)[:, None]
        seen = key <= (position if form.last is None else form.last[..., None])
        if form.first is not None:
            seen = seen & (key >= form.first[..., None])
    if form.mask is not None:
        seen = seen & form.mask
    if form.mask is not None and not seen.any(-1).all():
        raise no_key("mask leaves")
    has_interval = form.first is not None or form.last is not None
    if (
        has_interval and not engine.on_gpu(like) and not seen.any(-1).all()
    ):  # a GPU would have to be waited for
        raise no_key("visibility leaves")
    return seen


def no_key(what):
    """The error of a query that sees no key."""
    return InputError(
        f"attention: the {what} a query without a key, expected at least one: let it see itself"
    )


def capped(scores, c):
    """c tanh(s / c): near s where it is small, never beyond ±c."""
    return np.tanh(scores * (1 / c)) * c


def cap_slope(scores, c):
    """The slope of capped, 1 − tanh²(s/c) = 4 e / (1 + e)² with e = exp(−2 |s/c|).

    1 − tanh² would lose all digits where tanh is close to 1.
    """
    e = np.exp(np.where(scores.real > 0, scores, -scores) * (-2 / c))
    return 4 * e / ((1 + e) * (1 + e))


def distances(T, S, slopes, like):
    """m (s − i) for heads with slopes m (...), position i of each query and key s → (..., T, S)."""
    key = np.arange(S, like=like)
    position = np.arange(S - T, S, like=like)[:, None]
    return (slopes[..., None, None] * (key - position)).astype(like.real.dtype)


def dropped(probs, keep, p):
    """probs k / (1 − p), or probs where nothing is dropped. Linear, so its own transpose."""
    return probs if keep is None else probs * keep * (1 / (1 - p))


def random_mask(rng, sizes):
    """A mask that hides half of the keys at random, but no query's own."""
    T, S = sizes["T"], sizes["S"]
    shown = rng.random((T, S)) < 0.5
    return {"mask": shown | np.eye(T, S, S - T, dtype=bool, like=shown)}


def intervals(rng, sizes):
    """A first and a last key for each query, at random, the query's own position among them."""
    T, S = sizes["T"], sizes["S"]
    own = np.arange(S - T, S, like=rng.random(T))
    return {"first": rng.integers(0, own + 1), "last": rng.integers(own, S)}


def of_its_own(variant):
    """A variant of attend for attention, whose keys are those of its queries: S = T."""
    if not callable(variant):
        return variant
    return lambda rng, sizes: variant(rng, {**sizes, "S": sizes["T"]})


def expecting(rows, heads, scores=None):
    """Op.expect of an op of attention: what raises InputError for options that do not fit its arrays.

    rows, heads, scores: functions of the arrays and n_head that give the shape (..., T) of bounds, that of
    slopes, and, where the op has no noise of that shape, (..., T, S) of a mask.
    """

    def expect(arrays, options):
        shapes = {"first": rows, "last": rows, "slopes": heads, "mask": scores}
        for name, shape_of in shapes.items():
            given = options.get(name)
            if given is None or shape_of is None:
                continue
            shape = shape_of(*arrays, options.get("n_head"))
            kinds, words = KINDS.get(name, ("iu", "integers"))
            has_axes = given.ndim > 0 or name not in ("first", "last")  # a bound has one of its own, T
            if given.dtype.kind not in kinds or not (has_axes and is_broadcast(given.shape, shape)):
                raise InputError(
                    f"attention: {name} is {given.dtype} of shape {given.shape}, expected {words} of shape"
                    f" {shape}, or of one that is broadcast to it"
                )

    return expect


KINDS = {"slopes": ("fiu", "numbers"), "mask": ("b", "booleans")}


def is_broadcast(given, shape):
    """Whether an array of a shape is broadcast to another."""
    try:
        return np.broadcast_shapes(given, shape) == shape
    except ValueError:
        return False


def only(name, options):
    """One of several options."""
    return {name: options[name]}


attend = Op(
    "...TD, ...SD, ...SD -> ...TD",
    attend_forward,
    attend_backward,
    at_least={"S": "T"},
    noise=lambda q, k, v, **_: (*q.shape[:-1], k.shape[-2]),
    expect=expecting(lambda q, k, v, _: q.shape[:-1], lambda q, k, v, _: q.shape[:-2]),
    variants={
        "scale 1": {"scale": 1.0},
        "mask": random_mask,
        "intervals": intervals,
        "from a key on": lambda rng, sizes: only("first", intervals(rng, sizes)),
        "to a later key": lambda rng, sizes: only("last", intervals(rng, sizes)),
        "cap": {"cap": 1.5},
        "slope": {"slopes": np.array(0.5)},
    },
    saves="q k v ...T ...T slopes first last mask keep",
)


def attend_groups_forward(q, k, v, *, scale=None, cap=None, slopes=None, first=None, last=None):
    """attend_forward with G heads of queries for each head of keys and values (Ainslie et al. 2023).

        y_kg = attend(q_kg, k_k, v_k)

    slopes are (KG); first and last broadcast to (..., T).
    q (..., K, G, T, D), k and v (..., K, S, D) → y (..., K, G, T, D)
    """
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    form = in_groups(Form(scale, cap, slopes, first, last), *q.shape[-4:-2])
    return attend_in_form(q, k[..., None, :, :], v[..., None, :, :], form, None, 0.0)


def attend_groups_backward(dy, saved):
    """Gradients of attend_groups_forward with respect to q, k and v.

        dk = Σ_g dk_kg,  dv = Σ_g dv_kg        because the G heads of a group read the same k and v

    In words: attend's, added up over the heads that share keys and values.
    """
    dq, dk, dv = attend_backward(dy, saved)
    return dq, dk.sum(-3), dv.sum(-3)


def in_groups(form, K, G):
    """The Form of attention for its heads, as that of attend for heads (..., K, G, ...)."""
    slopes = None if form.slopes is None else np.broadcast_to(form.slopes, (K * G,)).reshape(K, G)
    places = {
        n: getattr(form, n)[..., None, None, :] for n in ("first", "last") if getattr(form, n) is not None
    }
    return form._replace(slopes=slopes, mask=heads_in_groups(form.mask, K, G), **places)


def heads_in_groups(array, K, G):
    """An array (..., KG or 1, T, S) → (..., K, G, T, S) or (..., 1, 1, T, S); None and (T, S) as they are."""
    if array is None or array.ndim < 3:
        return array
    *lead, H, T, S = array.shape
    return array.reshape(*lead, *((1, 1) if H == 1 else (K, G)), T, S)


attend_groups = Op(
    "...KGTD, ...KSD, ...KSD -> ...KGTD",
    attend_groups_forward,
    attend_groups_backward,
    at_least={"S": "T"},
    expect=expecting(
        lambda q, k, v, _: (*q.shape[:-4], q.shape[-2]), lambda q, k, v, _: (q.shape[-4] * q.shape[-3],)
    ),
    variants={
        "cap": {"cap": 1.5},
        "intervals": intervals,
        "slopes": lambda rng, sizes: {"slopes": rng.random(sizes["K"] * sizes["G"])},
    },
    saves="q k v ...KGT ...KGT slopes first last",
)


def attention_forward(
    qkv,
    *,
    n_head,
    n_kv_head=None,
    scale=None,
    cap=None,
    slopes=None,
    first=None,
    last=None,
    mask=None,
    keep=None,
    p=0.0,
):
    """Causal multi-head attention from packed queries, keys and values.

        q, k, v = the first HD, the next KD and the last KD of qkv's channels, split into heads of size D
        y = the heads' attend(q, k, v), side by side; head h of q reads k and v of head h // G, G = H/K

    n_kv_head: K, as many as n_head unless given. The other options are attend's; first and last broadcast to
    (..., T), mask to (..., 1 or H, T, T), slopes are (H), keep is (..., H, T, T).
    qkv (..., T, HD + 2KD) → y (..., T, HD)
    """
    q, k, v = split_heads(qkv, n_head, n_kv_head)
    K = k.shape[-3]
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    form = in_groups(Form(scale, cap, slopes, first, last, mask), K, n_head // K)
    keep = heads_in_groups(keep, K, n_head // K)
    y, saved = attend_in_form(by_group(q, K), k[..., None, :, :], v[..., None, :, :], form, keep, p)
    return merge_heads(y.reshape(q.shape)), (saved, n_head)


def attention_backward(dy, saved):
    """Gradient of attention_forward with respect to qkv.

        dq, dk, dv = attend_groups_backward of dy, split into heads as q was
        dqkv = the three side by side        because splitting and merging only move numbers

    In words: split, go back through each head, merge.
    """
    saved, n_head = saved
    dy = one_head_each(dy, n_head)
    dq, dk, dv = attend_groups_backward(by_group(dy, saved[1].shape[-4]), saved)
    return (np.concatenate([merge_heads(dq.reshape(dy.shape)), merge_heads(dk), merge_heads(dv)], axis=-1),)


def split_heads(qkv, n_head, n_kv_head=None):
    """qkv (..., T, HD + 2KD) → q (..., H, T, D), k and v (..., K, T, D), views."""
    K = n_head if n_kv_head is None else n_kv_head
    D = qkv.shape[-1] // (n_head + 2 * K)
    q, k, v = n_head * D, (n_head + K) * D, (n_head + 2 * K) * D
    return (
        one_head_each(qkv[..., :q], n_head),
        one_head_each(qkv[..., q:k], K),
        one_head_each(qkv[..., k:v], K),
    )


def one_head_each(x, n_head):
    """x (..., T, HD) → (..., H, T, D), a view."""
    *lead, T, C = x.shape
    return x.reshape(*lead, T, n_head, C // n_head).swapaxes(-3, -2)


def by_group(heads, K):
    """heads (..., KG, T, D) → (..., K, G, T, D)."""
    *lead, H, T, D = heads.shape
    return heads.reshape(*lead, K, H // K, T, D)


def merge_heads(heads):
    """heads (..., H, T, D) → (..., T, HD)."""
    *lead, H, T, D = heads.shape
    return heads.swapaxes(-3, -2).reshape(*lead, T, H * D)


attention = Op(
    "...T(KGD+2KD) -> ...T(KGD)",
    attention_forward,
    attention_backward,
    sizes={"n_head": "KG", "n_kv_head": "K"},
    noise=lambda qkv, n_head, **_: (*qkv.shape[:-2], n_head, qkv.shape[-2], qkv.shape[-2]),
    expect=expecting(lambda qkv, n_head: qkv.shape[:-1], lambda qkv, n_head: (n_head,)),
    variants={name: of_its_own(variant) for name, variant in attend.variants.items()}
    | {"slope": lambda rng, sizes: {"slopes": rng.random(sizes["K"] * sizes["G"])}},
    saves="qkv ...T(KG) ...T(KG) slopes first last mask keep",
)
