"""Softmax cross-entropy: predicted minus true, over the number that counts.

The loss is the mean surprise at the targets. A target of IGNORE does not count: padding, a prompt that is not
to be learned. The softmax and the logarithm are differentiated together, and hardly anything is left.

Shapes: logits, probs (B, T, V) · targets (B, T) · loss, dloss a number · count, how many targets count
"""

import numpy as np

from ..exercise import Exercise, Fault, Invariant, Term, Variant, case_of_pair

IGNORE = -1


def cross_entropy_forward(logits, targets):
    """loss = mean of -log(probs[b, t, targets[b, t]]) over the targets that are not IGNORE."""
    shifted = logits - logits.max(-1, keepdims=True)
    probs = np.exp(shifted) / np.exp(shifted).sum(-1, keepdims=True)
    b, t = np.nonzero(targets != IGNORE)
    loss = -np.log(probs[b, t, targets[b, t]]).sum() / len(b)
    return loss, (logits, probs, targets, len(b))


def cross_entropy_backward(dloss, saved):
    """The gradient dlogits of dloss * loss.

    For one target k that counts, with p = probs[b, t]:

        -log p[k] = log(sum over v of exp(logits[v])) - logits[k]

        d/dlogits[v] of the first part  = exp(logits[v]) / sum = …
        d/dlogits[v] of the second part = …                      because it has logits[k] alone

    The loss is the mean over count of them, and dloss comes from above. Rows that do not count get 0.
    """
    logits, probs, targets, count = saved
    # yours
    counted = targets != IGNORE
    onehot = np.arange(probs.shape[-1]) == targets[..., None]
    dlogits = probs - onehot
    dlogits = dlogits * counted[..., None]
    dlogits = dlogits * dloss / count
    return dlogits


def case(rng, B, T, V):
    """Random arrays of these sizes, and what the terms are made of."""
    logits = 2 * rng.standard_normal((B, T, V))
    targets = rng.integers(0, V, (B, T))
    left_out = rng.permutation(B * T)[: min(4, B * T - 1)]
    targets.reshape(-1)[left_out] = IGNORE
    _, (_, probs, _, count) = cross_entropy_forward(logits, targets)
    counted = (targets != IGNORE)[..., None]
    values = {"probs": probs, "counted": counted, "targets": targets, "count": count}
    values |= {"classes": np.arange(V), "onehot": lambda v: (v.classes == v.targets[..., None]) * 1.0}
    numbers = {"B": B, "T": T, "V": V, "count": count}
    made = case_of_pair(cross_entropy_forward, {"logits": logits}, 1.75, numbers, targets, **values)
    made.sets["dlogits"] = {
        "rows that do not count": ~counted,
        "the place of the target": values["onehot"](made.values) > 0,
    }
    return made


def terms(v):
    """The signed sums that the gradients are."""
    upstream = v.counted * v.dy / v.count
    return {
        "dlogits": (
            Term("probs", "probs / count", v.probs * upstream),
            Term("onehot", "onehot / count", v.onehot(v) * upstream, -1),
        )
    }


def as_index(v):
    """One-hot where a target of IGNORE counts from the end, as an index does."""
    return (v.classes == (v.targets % len(v.classes))[..., None]) * 1.0


VARIANTS = (
    Variant(
        "IGNORED_COUNTED",
        "has gradients in rows that do not count",
        lambda v: v.but(counted=np.ones_like(v.counted)),
    ),
    Variant(
        "IGNORED_AS_INDEX",
        "uses the target IGNORE of rows that do not count as an index from the end",
        lambda v: v.but(counted=np.ones_like(v.counted), onehot=lambda _: as_index(v)),
    ),
    Variant(
        "LOGITS_FOR_PROBS", "has the logits where the probabilities belong", lambda v: v.but(probs=v.logits)
    ),
    Variant("LOG_PROBS", "has log probs where probs belong", lambda v: v.but(probs=np.log(v.probs))),
    Variant(
        "ELEMENTWISE",
        "differentiates the softmax entry by entry: it is 0 but at the target",
        lambda v: v.but(probs=v.probs * v.onehot(v)),
    ),
    Variant(
        "ARGMAX_FOR_TARGET",
        "subtracts 1 at the likeliest class instead of the target",
        lambda v: v.but(onehot=lambda v: (v.classes == v.probs.argmax(-1)[..., None]) * 1.0),
    ),
    Variant(
        "SIGMOID_SLOPE",
        "has a factor p (1 - p), which log and softmax together do not have",
        lambda v: v.but(counted=v.counted * v.probs * (1 - v.probs)),
    ),
)

INVARIANTS = (
    Invariant(
        "dlogits",
        "Adding a constant to all logits of a row does not change its probabilities, so each row sums to 0.",
        "sums to",
        lambda dlogits, v: dlogits.sum(-1),
    ),
    Invariant(
        "dlogits",
        "A row that does not count has no part in the loss, so its gradient is 0.",
        "is",
        lambda dlogits, v: np.where(v.counted, 0, dlogits),
    ),
)

HINTS = {
    "": (
        "Which logits move the surprise at one target? All of its row, and one of them twice.",
        "There are two terms: the probabilities, and a 1 at the target.",
        "dlogits = (probs - onehot) * dloss / count, and 0 in rows that do not count",
    ),
    "ONEHOT": (
        "The surprise is log(sum) - logits[k]. What is the second part's derivative?",
        "At the target's place a 1 is to be subtracted.",
        "dlogits[b, t, targets[b, t]] -= 1",
    ),
    "DLOGITS_TIMES": (
        "The loss is a mean. Over how many?",
        "Divide by the number of targets that count: not by B, T or B·T.",
        "/ count",
    ),
    "IGNORED": (
        "What happens to the loss when a logit of a padded position moves?",
        "Rows whose target is IGNORE get 0, and are left out before -1 is used as an index.",
        "dlogits[targets == IGNORE] = 0",
    ),
    "DY_IGNORED": (
        "What if the loss is multiplied by 1000 afterwards, as in mixed precision?",
        "dloss comes from above and multiplies everything.",
        "* dloss",
    ),
}

FAULTS = (
    Fault("no one-hot", ("CE_ONEHOT_TERM_MISSING",), (("probs - onehot", "probs - 0 * onehot"),)),
    Fault("one-hot minus probs", ("CE_DLOGITS_SIGN",), (("probs - onehot", "onehot - probs"),)),
    Fault("one-hot added", ("CE_ONEHOT_TERM_SIGN",), (("probs - onehot", "probs + onehot"),)),
    Fault("not divided by the count", ("CE_DLOGITS_TIMES_COUNT",), ((" / count", ""),)),
    Fault(
        "divided by the batch alone (deeplearning.ai 402919)",
        ("CE_DLOGITS_TIMES_COUNT_OVER_B",),
        (("/ count", "/ probs.shape[0]"),),
    ),
    Fault("divided by T", ("CE_DLOGITS_TIMES_COUNT_OVER_T",), (("/ count", "/ probs.shape[1]"),)),
    Fault(
        "divided by all B·T targets, not by those that count (huggingface/transformers #34191, trl #7249)",
        ("CE_DLOGITS_TIMES_COUNT_OVER_B_T",),
        (("/ count", "/ targets.size"),),
    ),
    Fault(
        "divided by the count and by V", ("CE_DLOGITS_OVER_V",), (("/ count", "/ count / probs.shape[-1]"),)
    ),
    Fault(
        "ignored targets get gradients",
        ("CE_IGNORED_COUNTED",),
        (("dlogits = dlogits * counted[..., None]", "pass"),),
    ),
    Fault(
        "ignored targets, -1, used as an index: the last class",
        ("CE_IGNORED_AS_INDEX",),
        (
            ("dlogits = dlogits * counted[..., None]", "pass"),
            ("== targets[..., None]", "== (targets % probs.shape[-1])[..., None]"),
        ),
    ),
    Fault("logits for probabilities", ("CE_LOGITS_FOR_PROBS",), (("probs - onehot", "logits - onehot"),)),
    Fault("log probabilities", ("CE_LOG_PROBS",), (("probs - onehot", "np.log(probs) - onehot"),)),
    Fault(
        "softmax entry by entry: p - 1 at the target, 0 elsewhere (uesina15-max)",
        ("CE_ELEMENTWISE",),
        (("probs - onehot", "(probs - 1) * onehot"),),
    ),
    Fault("dloss not used", ("CE_DY_IGNORED",), (("dlogits * dloss / count", "dlogits / count"),)),
    Fault(
        "the likeliest class for the target",
        ("CE_ARGMAX_FOR_TARGET",),
        (("== targets[..., None]", "== probs.argmax(-1)[..., None]"),),
    ),
    Fault(
        "a factor p (1 - p) kept from a sigmoid",
        ("CE_SIGMOID_SLOPE",),
        (("dlogits * dloss", "dlogits * probs * (1 - probs) * dloss"),),
    ),
    Fault(
        "probabilities changed in place",
        ("ARGUMENT_CHANGED",),
        (("dlogits = probs - onehot", "probs -= onehot\ndlogits = probs"),),
    ),
    Fault(
        "rows flattened, not shaped back",
        ("CE_DLOGITS_RESHAPED",),
        (("return dlogits", "return dlogits.reshape(-1, probs.shape[-1])"),),
    ),
)

ALTERNATIVES = (
    """
    dlogits = probs.copy()
    b, t = np.nonzero(targets != IGNORE)
    dlogits[b, t, targets[b, t]] -= 1
    dlogits[targets == IGNORE] = 0
    return dlogits * (dloss / count)
    """,
    """
    V = probs.shape[-1]
    rows, ids = probs.reshape(-1, V), targets.reshape(-1)
    keep = np.flatnonzero(ids != IGNORE)
    out = np.zeros_like(rows)
    out[keep] = dloss * rows[keep] / count
    out[keep, ids[keep]] -= dloss / count
    return (out.reshape(probs.shape),)
    """,
    """
    e = np.exp(logits - logits.max(-1, keepdims=True))
    p = e / e.sum(-1, keepdims=True)
    truth = np.eye(p.shape[-1])[np.where(targets == IGNORE, 0, targets)]
    weight = np.where(targets == IGNORE, 0.0, dloss / count)
    return np.einsum("btv,bt->btv", p - truth, weight)
    """,
)

EXERCISE = Exercise(
    name="cross_entropy",
    prefix="CE",
    solution=cross_entropy_backward,
    forward=cross_entropy_forward,
    shown=("IGNORE", "cross_entropy_forward"),
    gradients={"dlogits": "BTV"},
    sizes={"B": 3, "T": 5, "V": 13},
    case=case,
    terms=terms,
    variants=VARIANTS,
    invariants=INVARIANTS,
    hints=HINTS,
    faults=FAULTS,
    alternatives=ALTERNATIVES,
    names={"logits": ("logits", "scores"), "probs": ("probs", "p")},
    constants={"IGNORE": ("-1", "-100")},
    ops=("cross_entropy",),
)
