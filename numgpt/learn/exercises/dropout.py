"""Dropout: the same mask both ways, and none in evaluation.

In training each attention probability is set to 0 at random with probability RATE, and the others are divided
by q = 1 - RATE, so that their expectation stays. What was dropped has no part in y and gets no gradient. What
stands behind dropout, here v, sees the dropped probabilities, and its gradient is made of those.

Shapes: probs, keep (B, T, S) · v (B, S, D) · y, dy (B, T, D) · keep is None in evaluation: nothing is dropped
"""

import numpy as np

from ..exercise import Exercise, Fault, Invariant, Probe, Term, Variant, case_of_pair

RATE = 0.23


def dropout_forward(probs, v, keep=None):
    """y = dropped v, where dropped = probs * keep / (1 - RATE) in training, and probs in evaluation."""
    dropped = probs if keep is None else probs * keep / (1 - RATE)
    return dropped @ v, (probs, v, keep)


def dropout_backward(dy, saved):
    """The gradients (dprobs, dv) of sum(dy * y).

    With indices, for one text of the batch:

        y[t,d]       = sum over s of dropped[t,s] * v[s,d]
        dropped[t,s] = probs[t,s] * keep[t,s] / (1 - RATE)

        dv[s,d]       = sum over t of … * dy[t,d]       because v[s,d] is multiplied by it
        ddropped[t,s] = sum over d of dy[t,d] * v[s,d]
        dprobs[t,s]   = ddropped[t,s] * …               because keep and RATE are constants

    Put in what is left out. keep is None in evaluation; what is dropped then, and what is divided?
    """
    probs, v, keep = saved
    # yours
    scale = 1.0 if keep is None else keep / (1 - RATE)
    dropped = probs * scale
    ddropped = dy @ v.swapaxes(-1, -2)
    dprobs = ddropped * scale
    dv = dropped.swapaxes(-1, -2) @ dy
    return dprobs, dv


def case(rng, B, T, S, D):
    """Random arrays of these sizes, and what the terms are made of."""
    probs = rng.dirichlet(np.ones(S), (B, T))
    v = rng.standard_normal((B, S, D))
    dy = rng.standard_normal((B, T, D))
    keep = rng.random((B, T, S)) >= RATE
    keep.reshape(-1)[:2] = True, False  # neither all nor none, in a small case
    values = {"keep": keep, "keep_in_dv": keep, "v_turned": v.swapaxes(-1, -2), "probs_in_dv": probs}
    numbers = {"B": B, "T": T, "S": S, "D": D, "q": 1 - RATE, "RATE": RATE}
    made = case_of_pair(dropout_forward, {"probs": probs, "v": v}, dy, numbers, keep, **values)
    made.sets["dprobs"] = {"what was dropped": ~keep, "what was kept": keep}
    return made


def case_in_evaluation(rng, B, T, S, D):
    """As case, where nothing is dropped."""
    inputs = {"probs": rng.dirichlet(np.ones(S), (B, T)), "v": rng.standard_normal((B, S, D))}
    return case_of_pair(dropout_forward, inputs, rng.standard_normal((B, T, D)), {}, None)


def terms(v):
    """The signed sums that the gradients are."""
    q = 1 - RATE
    dropped = v.probs_in_dv * v.keep_in_dv / q
    return {
        "dprobs": (Term("dprobs", "(dy @ v.T) * keep / q", v.dy @ v.v_turned * v.keep / q),),
        "dv": (Term("dv", "(probs * keep / q).T @ dy", dropped.swapaxes(-1, -2) @ v.dy),),
    }


def ask_in_evaluation(function):
    """Whether nothing is dropped in evaluation."""
    dy, (probs, v, keep) = case_in_evaluation(np.random.default_rng(0), B=1, T=2, S=3, D=5).arguments
    try:
        returned = function(dy, (probs, v, keep))
    except TypeError as error:
        return f"in evaluation, where keep is None, TypeError is raised: {error}"
    got = list(returned.values()) if isinstance(returned, dict) else list(returned)
    for name, array, right in zip(
        ("dprobs", "dv"), got, (dy @ v.swapaxes(-1, -2), probs.swapaxes(-1, -2) @ dy)
    ):
        if np.shape(array) != right.shape or not np.allclose(array, right):
            return (
                f"{name} is wrong in evaluation, where keep is None: nothing is dropped then, and nothing is"
                " divided by 1 - RATE"
            )
    return ""


VARIANTS = (
    Variant(
        "MASK_LEFT_OUT",
        "has gradients where probs was dropped: y does not depend on probs there",
        lambda v: v.but(keep=np.ones_like(v.keep)),
        ("dprobs",),
    ),
    Variant(
        "PASSED_OVER",
        "is dy @ v.T itself: dropout is passed over on the way back",
        lambda v: v.but(keep=(1 - RATE) * np.ones(v.keep.shape)),
        ("dprobs",),
    ),
    Variant(
        "MASK_INVERTED",
        "is 0 where probs was kept, and not where it was dropped",
        lambda v: v.but(keep=~v.keep),
        ("dprobs",),
    ),
    Variant(
        "ALL_FOR_DROPPED",
        "is made of probs before dropout: y was made of the dropped ones",
        lambda v: v.but(keep_in_dv=(1 - RATE) * np.ones(v.keep.shape)),
        ("dv",),
    ),
    Variant(
        "MASK_LEFT_OUT_OF_DV",
        "is made of probs / (1 - RATE) without the mask",
        lambda v: v.but(keep_in_dv=np.ones_like(v.keep)),
        ("dv",),
    ),
    Variant(
        "MASK_INVERTED_IN_DV",
        "is made of the probabilities that were dropped",
        lambda v: v.but(keep_in_dv=~v.keep),
        ("dv",),
    ),
    Variant(
        "MASK_FOR_DROPPED",
        "is made of the mask alone, where the dropped probabilities belong",
        lambda v: v.but(probs_in_dv=1.0),
        ("dv",),
    ),
    Variant(
        "PROBS_TOO_MUCH",
        "has probs as a factor, of which y is a linear function",
        lambda v: v.but(keep=v.keep * v.probs),
        ("dprobs",),
    ),
    Variant(
        "V_NOT_TRANSPOSED",
        "is made of dy @ v, where the transpose of v is needed",
        lambda v: v.but(v_turned=v.v),
        ("dprobs",),
    ),
    Variant(
        "DROPPED_NOT_TRANSPOSED",
        "is dropped @ dy, where the transpose of dropped is needed",
        lambda v: v.but(keep_in_dv=v.keep_in_dv.swapaxes(-1, -2), probs_in_dv=v.probs_in_dv.swapaxes(-1, -2)),
        ("dv",),
    ),
)

INVARIANTS = (
    Invariant(
        "dprobs",
        "A probability that was dropped has no part in y, so its gradient is 0.",
        "is",
        lambda dprobs, v: np.where(v.keep, 0, dprobs),
    ),
    Invariant(
        "dprobs",
        "y is linear in probs, so probs * dprobs sums to the sum of dy * y.",
        "is off by",
        lambda dprobs, v: (dprobs * v.probs).sum() - (v.dy * ((v.probs * v.keep / (1 - RATE)) @ v.v)).sum(),
    ),
    Invariant(
        "dv",
        "y is linear in v, so v * dv sums to the sum of dy * y.",
        "is off by",
        lambda dv, v: (dv * v.v).sum() - (v.dy * ((v.probs * v.keep / (1 - RATE)) @ v.v)).sum(),
    ),
)

HINTS = {
    "": (
        "By which constant was each probability multiplied before it met v?",
        "keep / (1 - RATE) multiplies on the way forward, and the same on the way back.",
        "dprobs = (dy @ v.T) * keep / (1 - RATE), dv = (probs * keep / (1 - RATE)).T @ dy",
    ),
    "DPROBS": (
        "If 1 is added to a probability that was kept, by how much does its dropped value grow?",
        "By 1 / (1 - RATE): the scale of the forward, once.",
        "dprobs = ddropped * keep / (1 - RATE)",
    ),
    "PASSED": (
        "What happens to y when a probability moves that was dropped, and what when one moves that was kept?",
        "The first has no part in y, the second a part made larger by 1 / (1 - RATE).",
        "ddropped * keep / (1 - RATE)",
    ),
    "MASK": (
        "What happens to y when a probability moves that was dropped?",
        "Nothing. The mask of the forward, which was saved, multiplies the gradient too.",
        "ddropped * keep / (1 - RATE)",
    ),
    "_DV": (
        "By what was v[s,d] multiplied in the forward?",
        "By the dropped probabilities, scaled: those are in dv.",
        "dropped.swapaxes(-1, -2) @ dy",
    ),
    "ALL_FOR": (
        "Which probabilities met v in the forward, all or those that were left?",
        "dv sees what v saw: probs * keep / (1 - RATE).",
        "(probs * keep / (1 - RATE)).swapaxes(-1, -2) @ dy",
    ),
    "TRANSPOSED": (
        "Over which axis is the sum, and which axes are left?",
        "A product's backward has the other factor transposed.",
        "dy @ v.swapaxes(-1, -2), and dropped.swapaxes(-1, -2) @ dy",
    ),
    "EVALUATION": (
        "What does the forward do where keep is None?",
        "It leaves probs as they are: no mask and no division.",
        "scale = 1.0 if keep is None else keep / (1 - RATE)",
    ),
    "NOT_REPEATABLE": (
        "Which mask did the forward use?",
        "A new mask is another function: the one that was saved is to be used.",
        "keep, from saved",
    ),
}

FAULTS = (
    Fault(
        "the mask left out of dprobs",
        ("DROP_MASK_LEFT_OUT",),
        (("ddropped * scale", "ddropped / (1 - RATE)"),),
    ),
    Fault(
        "the scale left out of dprobs", ("DROP_DPROBS_TIMES_Q",), (("ddropped * scale", "ddropped * keep"),)
    ),
    Fault(
        "mask and scale left out: dropout passed over on the way back",
        ("DROP_PASSED_OVER",),
        (("ddropped * scale", "ddropped"),),
    ),
    Fault(
        "scaled twice: the mask had the scale already",
        ("DROP_DPROBS_OVER_Q",),
        (("ddropped * scale", "ddropped * scale / (1 - RATE)"),),
    ),
    Fault(
        "multiplied by 1 - RATE, not divided",
        ("DROP_DPROBS_TIMES_Q_SQUARED",),
        (("ddropped * scale", "ddropped * keep * (1 - RATE)"),),
    ),
    Fault(
        "divided by RATE",
        ("DROP_DPROBS_TIMES_Q_OVER_RATE",),
        (("ddropped * scale", "ddropped * keep / RATE"),),
    ),
    Fault(
        "the mask inverted", ("DROP_MASK_INVERTED",), (("ddropped * scale", "ddropped * ~keep / (1 - RATE)"),)
    ),
    Fault(
        "a new mask is drawn on the way back",
        ("NOT_REPEATABLE",),
        (("ddropped * scale", "ddropped * (np.random.random(keep.shape) >= RATE) / (1 - RATE)"),),
    ),
    Fault(
        "dv of the probabilities before dropout (a peer's attention, wrong in training alone)",
        ("DROP_ALL_FOR_DROPPED",),
        (("dropped.swapaxes", "probs.swapaxes"),),
    ),
    Fault(
        "dv without the mask",
        ("DROP_MASK_LEFT_OUT_OF_DV",),
        (("dropped.swapaxes", "(probs / (1 - RATE)).swapaxes"),),
    ),
    Fault("dv without the scale", ("DROP_DV_TIMES_Q",), (("dropped.swapaxes", "(probs * keep).swapaxes"),)),
    Fault("dv scaled twice", ("DROP_DV_OVER_Q",), (("dropped.swapaxes", "(dropped / (1 - RATE)).swapaxes"),)),
    Fault(
        "dv with the mask inverted",
        ("DROP_MASK_INVERTED_IN_DV",),
        (("dropped.swapaxes", "(probs * ~keep / (1 - RATE)).swapaxes"),),
    ),
    Fault("dv of the mask alone", ("DROP_MASK_FOR_DROPPED",), (("dropped.swapaxes", "scale.swapaxes"),)),
    Fault(
        "probs as a factor of dprobs", ("DROP_PROBS_TOO_MUCH",), (("ddropped * scale", "ddropped * dropped"),)
    ),
    Fault("v not transposed", ("DROP_V_NOT_TRANSPOSED",), (("dy @ v.swapaxes(-1, -2)", "dy @ v"),)),
    Fault(
        "dropped not transposed", ("DROP_DROPPED_NOT_TRANSPOSED",), (("dropped.swapaxes(-1, -2)", "dropped"),)
    ),
    Fault(
        "dropout active in evaluation: the scale is applied where nothing is dropped",
        ("DROP_EVALUATION",),
        (("1.0 if keep is None else keep / (1 - RATE)", "(1.0 if keep is None else keep) / (1 - RATE)"),),
    ),
    Fault(
        "no thought of evaluation",
        ("DROP_EVALUATION",),
        (("1.0 if keep is None else keep / (1 - RATE)", "keep / (1 - RATE)"),),
    ),
    Fault("the sign", ("DROP_DPROBS_SIGN",), (("ddropped * scale", "-ddropped * scale"),)),
    Fault("results in another order", ("DROP_ORDER",), (("return dprobs, dv", "return dv, dprobs"),)),
)

ALTERNATIVES = (
    """
    scale = np.ones_like(probs) if keep is None else np.where(keep, 1 / (1 - RATE), 0)
    dprobs = np.einsum("btd,bsd,bts->bts", dy, v, scale)
    return dprobs, np.einsum("bts,bts,btd->bsd", probs, scale, dy)
    """,
    """
    q = 1.0 if keep is None else 1 - RATE
    left = probs if keep is None else np.where(keep, probs, 0)
    dprobs = np.matmul(dy / q, v.transpose(0, 2, 1))
    if keep is not None:
        dprobs[~keep] = 0
    return [dprobs, left.transpose(0, 2, 1) @ (dy / q)]
    """,
    """
    dprobs, dv = np.zeros_like(probs), np.zeros_like(v)
    for b, t, s in np.ndindex(probs.shape):
        if keep is None or keep[b, t, s]:
            scale = 1 if keep is None else 1 / (1 - RATE)
            dprobs[b, t, s] = scale * (dy[b, t] @ v[b, s])
            dv[b, s] += scale * probs[b, t, s] * dy[b, t]
    return {"dprobs": dprobs, "dv": dv}
    """,
)

EXERCISE = Exercise(
    name="dropout",
    prefix="DROP",
    solution=dropout_backward,
    forward=dropout_forward,
    shown=("RATE", "dropout_forward"),
    gradients={"dprobs": "BTS", "dv": "BSD"},
    sizes={"B": 3, "T": 5, "S": 7, "D": 11},
    case=case,
    other_case=case_in_evaluation,
    terms=terms,
    variants=VARIANTS,
    invariants=INVARIANTS,
    probes=(Probe("EVALUATION", ask_in_evaluation),),
    hints=HINTS,
    faults=FAULTS,
    alternatives=ALTERNATIVES,
    says={
        "DROP_DPROBS_OVER_Q": "dprobs is divided by q = 1 - RATE twice, where once is right",
        "DROP_DV_OVER_Q": "dv is divided by q = 1 - RATE twice, where once is right",
        "DROP_DPROBS_TIMES_Q_SQUARED": "dprobs is multiplied by q = 1 - RATE, where it is divided by it",
        "DROP_DPROBS_TIMES_Q_OVER_RATE": "dprobs is divided by RATE, where it is divided by 1 - RATE",
    },
    names={"keep": ("keep", "mask", "kept")},
    constants={"RATE": ("0.23", "0.17", "0.31")},
    ops=("dropout",),
)
