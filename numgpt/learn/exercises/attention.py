"""Attention, one causal head: five gradients in their order.

Each query t takes a mean of the values, weighted by how well their keys match it; it sees keys 0 … t. The
backward undoes the forward's steps one by one, last first. Each step is a product of matrices, or a softmax.

Shapes: q, k, v, y, dy (B, T, D) · S, P (B, T, T), queries before keys · scale a number
"""

import math

import numpy as np

from ..exercise import Case, Exercise, Fault, Invariant, Term, Values, Variant

FACTOR = 1.0


def attention_forward(q, k, v):
    """S = scale * q kᵀ where a query sees a key, P = softmax(S) over the keys, y = P v."""
    scale = FACTOR / math.sqrt(q.shape[-1])
    S = scale * (q @ k.swapaxes(-1, -2))
    seen = np.tri(q.shape[1], dtype=bool)
    e = np.where(seen, np.exp(S - S.max(-1, keepdims=True)), 0)
    P = e / e.sum(-1, keepdims=True)
    return P @ v, (q, k, v, P, scale)


def attention_backward(dy, saved):
    """The gradients (dv, dP, dS, dq, dk) of sum(dy * y), in the order in which they are computed.

        y[t] = sum over s of P[t,s] * v[s]              so dv = … and dP = …
        P    = softmax of S over s                      so dS = … with the whole row
        S[t,s] = scale * (sum over d of q[t,d] * k[s,d])    so dq = … and dk = …

    Write each as a product of matrices: a.swapaxes(-1, -2) is the transpose of each of the B matrices. Keys
    that are not seen have P = 0: see what that makes of dS.
    """
    q, k, v, P, scale = saved
    # yours
    dv = P.swapaxes(-1, -2) @ dy
    dP = dy @ v.swapaxes(-1, -2)
    dS = P * (dP - (P * dP).sum(-1, keepdims=True))
    dq = scale * (dS @ k)
    dk = scale * (dS.swapaxes(-1, -2) @ q)
    return dv, dP, dS, dq, dk


def case(rng, B, T, D):
    """Random arrays of these sizes, and what the terms are made of."""
    inputs = dict(zip("qkv", rng.standard_normal((3, B, T, D))))
    dy = rng.standard_normal((B, T, D))
    _, saved = attention_forward(*inputs.values())
    q, k, v, P, scale = saved
    dP = dy @ turned(v)
    dS = P * (dP - (P * dP).sum(-1, keepdims=True))
    values = {"P": P, "dP": dP, "dS": dS, "scale": scale, "row": over_keys, "side": turned, "mix": P}
    values |= {"unmasked": softmax(scale * (q @ turned(k))), "keep": as_it_is}

    def loss(forward, arrays):
        return float((dy * forward(*arrays.values())[0]).sum())

    hidden = np.broadcast_to(~np.tri(T, dtype=bool), (B, T, T))
    last = np.broadcast_to((np.arange(T) == T - 1)[:, None], (B, T, D))
    sets = {name: {"hidden keys": hidden} for name in ("dS", "dP")}
    sets |= {name: {"the last position": last} for name in ("dq", "dk", "dv")}
    numbers = {"B": B, "T": T, "D": D}
    return Case((dy, saved), Values(dy=dy, **inputs, **values), inputs, loss, numbers, sets)


def as_it_is(a):
    """The array itself."""
    return a


def softmax(S):
    """The softmax over the last axis."""
    e = np.exp(S - S.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def turned(a):
    """The transpose of each matrix."""
    return np.swapaxes(a, -1, -2)


def over_keys(a):
    """The sum over the keys, its axis kept."""
    return a.sum(-1, keepdims=True)


def terms(v):
    """The signed sums that the gradients are."""
    return {
        "dv": (Term("dv", "P.T @ dy", v.side(v.mix) @ v.dy),),
        "dP": (Term("dP", "dy @ v.T", v.dy @ turned(v.v)),),
        "dS": (
            Term("direct", "P * dP", v.keep(v.P * v.dP)),
            Term("row", "P * sum_keys(P * dP)", v.keep(v.P * v.row(v.P * v.dP) * np.ones_like(v.dP)), -1),
        ),
        "dq": (Term("dq", "scale * dS @ k", v.scale * (v.dS @ v.k)),),
        "dk": (Term("dk", "scale * dS.T @ q", v.scale * (v.side(v.dS) @ v.q)),),
    }


def is_not_turned(v):
    """The values with matrices where their transposes belong."""
    return v.but(side=as_it_is)


VARIANTS = (
    Variant("P_NOT_TRANSPOSED", "is P @ dy, where the transpose of P belongs", is_not_turned, ("dv",)),
    Variant("DS_NOT_TRANSPOSED", "is dS @ q, where the transpose of dS belongs", is_not_turned, ("dk",)),
    Variant(
        "DS_TRANSPOSED",
        "has the transpose of dS, where dS itself belongs",
        lambda v: v.but(dS=turned(v.dS)),
        ("dq",),
    ),
    Variant("DV_OF_DP", "is made of dP where P belongs", lambda v: v.but(mix=v.dP), ("dv",)),
    Variant("DV_OF_DS", "is made of dS where P belongs", lambda v: v.but(mix=v.dS), ("dv",)),
    Variant(
        "UNMASKED",
        "is made of a softmax without a mask",
        lambda v: v.but(mix=v.unmasked, P=v.unmasked),
        ("dv", "dS"),
    ),
    Variant(
        "MASK_TURNED",
        "hides the earlier keys, not the later ones",
        lambda v: v.but(keep=np.triu),
        ("dS",),
    ),
    Variant(
        "ELEMENTWISE",
        "differentiates each P with respect to its own S alone",
        lambda v: v.but(row=as_it_is),
        ("dS",),
    ),
    Variant(
        "SUM_OVER_QUERIES",
        "sums over the queries, where the softmax is over the keys",
        lambda v: v.but(row=lambda a: a.sum(-2, keepdims=True)),
        ("dS",),
    ),
    Variant("K_FOR_V", "is made of k where v belongs", lambda v: v.but(v=v.k), ("dP",)),
    Variant("Q_FOR_K", "is made of q where k belongs", lambda v: v.but(k=v.q), ("dq",)),
    Variant("K_FOR_Q", "is made of k where q belongs", lambda v: v.but(q=v.k), ("dk",)),
    Variant(
        "DP_FOR_DS", "is made of dP, before the softmax is undone", lambda v: v.but(dS=v.dP), ("dq", "dk")
    ),
    Variant("P_FOR_DS", "is made of P where dS belongs", lambda v: v.but(dS=v.P), ("dq", "dk")),
    Variant("Y_FOR_DY", "is made of y where dy belongs", lambda v: v.but(dy=v.P @ v.v), ("dv", "dP")),
)

INVARIANTS = (
    Invariant(
        "dS",
        "Adding a constant to a query's scores leaves P alone, so each row of dS sums to 0 over the keys.",
        "sums to",
        lambda dS, v: dS.sum(-1),
    ),
    Invariant(
        "dS",
        "A key that is not seen has no part in y, so its dS is 0.",
        "is",
        lambda dS, v: np.triu(dS, 1),
    ),
    Invariant(
        "dk",
        "Adding one vector to all keys moves a query's scores alike, so dk sums to 0 over the positions.",
        "sums to",
        lambda dk, v: dk.sum(1, keepdims=True),
    ),
    Invariant(
        "dv",
        "The weights of each query sum to 1, so dv sums over the positions to what dy sums to.",
        "is off by",
        lambda dv, v: dv.sum(1, keepdims=True) - v.dy.sum(1, keepdims=True),
    ),
)

HINTS = {
    "": (
        "Which step of the forward was the last, and what are its two factors?",
        "y = P v gives dv and dP; the softmax gives dS of dP; S = scale q kᵀ gives dq and dk.",
        "dv = Pᵀ dy, dP = dy vᵀ, dS = P (dP - sum(P dP)), dq = scale dS k, dk = scale dSᵀ q",
    ),
    "_DV": (
        "v[s] is read by every query t that sees it. Over which axis of P is the sum?",
        "dv is a product of P and dy, with P transposed.",
        "dv = P.swapaxes(-1, -2) @ dy",
    ),
    "P_NOT": (
        "v[s] is read by every query t that sees it. Over which axis of P is the sum?",
        "dv sums over the queries, which are the first axis of P.",
        "dv = P.swapaxes(-1, -2) @ dy",
    ),
    "ROW": (
        "If one score of a query grows, can its other P stay as they are?",
        "dS is that of a softmax: the row's mean of dP under P is taken off.",
        "dS = P * (dP - (P * dP).sum(-1, keepdims=True))",
    ),
    "DS_NOT": (
        "k[s] is read by every query t. Over which axis of dS is the sum?",
        "dk sums over the queries, which are the first axis of dS.",
        "dk = scale * (dS.swapaxes(-1, -2) @ q)",
    ),
    "ROOT_D": (
        "S is scale times a product. What is dS/dq?",
        "scale stands in S once, so it stands in dq once, and in dk once.",
        "dq = scale * (dS @ k), dk = scale * (dS.swapaxes(-1, -2) @ q)",
    ),
    "MASK": (
        "Which keys does query t see: s ≤ t, or s ≥ t?",
        "P is 0 where a key is hidden, and dS = P * (…): nothing need be masked again.",
        "dS = P * (dP - …)",
    ),
    "ELEMENTWISE": (
        "If one score of a query grows, can its other P stay as they are?",
        "P * (1 - P) is the diagonal of the softmax's Jacobian; the rest is missing.",
        "dS = P * (dP - (P * dP).sum(-1, keepdims=True))",
    ),
}

DQ, DK = "dq = scale * (dS @ k)", "dk = scale * (dS.swapaxes(-1, -2) @ q)"
FAULTS = (
    Fault("scale forgotten in dq", ("AT_DQ_TIMES_ROOT_D",), ((DQ, "dq = dS @ k"),)),
    Fault("scale forgotten in dk", ("AT_DK_TIMES_ROOT_D",), ((DK, "dk = dS.swapaxes(-1, -2) @ q"),)),
    Fault(
        "scale forgotten in both",
        ("AT_DQ_TIMES_ROOT_D", "AT_DK_TIMES_ROOT_D"),
        ((DQ, "dq = dS @ k"), (DK, "dk = dS.swapaxes(-1, -2) @ q")),
    ),
    Fault(
        "scale squared",
        ("AT_DQ_OVER_ROOT_D", "AT_DK_OVER_ROOT_D"),
        ((DQ, "dS = scale * dS\n" + DQ), ("return dv, dP, dS,", "return dv, dP, dS / scale,")),
    ),
    Fault("scale in dS too", ("AT_DS_OVER_ROOT_D",), (("dS = P * (dP", "dS = scale * P * (dP"),)),
    Fault("dk without the transpose", ("AT_DS_NOT_TRANSPOSED",), ((DK, "dk = scale * (dS @ q)"),)),
    Fault("dq with the transpose", ("AT_DS_TRANSPOSED",), ((DQ, "dq = scale * (dS.swapaxes(-1, -2) @ k)"),)),
    Fault(
        "dv without the transpose",
        ("AT_P_NOT_TRANSPOSED",),
        (("dv = P.swapaxes(-1, -2) @ dy", "dv = P @ dy"),),
    ),
    Fault(
        "dv of dP",
        ("AT_DV_OF_DP",),
        (
            (
                "dv = P.swapaxes(-1, -2) @ dy\ndP = dy @ v.swapaxes(-1, -2)",
                "dP = dy @ v.swapaxes(-1, -2)\ndv = dP.swapaxes(-1, -2) @ dy",
            ),
        ),
    ),
    Fault(
        "the softmax's row sum missing",
        ("AT_ROW_TERM_MISSING",),
        (("P * (dP - (P * dP).sum(-1, keepdims=True))", "P * dP"),),
    ),
    Fault(
        "the softmax entry by entry (uesina15-max)",
        ("AT_ELEMENTWISE",),
        (("P * (dP - (P * dP).sum(-1, keepdims=True))", "P * (1 - P) * dP"),),
    ),
    Fault("the softmax's sum over the queries", ("AT_SUM_OVER_QUERIES",), ((".sum(-1", ".sum(-2"),)),
    Fault("the softmax's mean for its sum", ("AT_ROW_TERM_OVER_T",), ((".sum(-1", ".mean(-1"),)),
    Fault("the row sum added", ("AT_ROW_TERM_SIGN",), (("dP - (P", "dP + (P"),)),
    Fault(
        "the mask turned round in dS", ("AT_MASK_TURNED",), (("dq = scale", "dS = np.triu(dS)\ndq = scale"),)
    ),
    Fault(
        "dq and dk of dP: the softmax is not undone",
        ("AT_DP_FOR_DS",),
        ((DQ, DQ.replace("dS", "dP")), (DK, DK.replace("dS", "dP"))),
    ),
    Fault("q for k", ("AT_Q_FOR_K",), ((DQ, "dq = scale * (dS @ q)"),)),
    Fault("k for q", ("AT_K_FOR_Q",), ((DK, "dk = scale * (dS.swapaxes(-1, -2) @ k)"),)),
    Fault("k for v in dP", ("AT_K_FOR_V",), (("dy @ v.swapaxes(-1, -2)", "dy @ k.swapaxes(-1, -2)"),)),
    Fault(
        "the causal mask forgotten: the softmax is taken anew",
        ("AT_UNMASKED",),
        (
            (
                "dv = P",
                "S = np.exp(scale * (q @ k.swapaxes(-1, -2)))\nP = S / S.sum(-1, keepdims=True)\ndv = P",
            ),
        ),
    ),
    Fault("dq and dk swapped", ("AT_ORDER",), (("dS, dq, dk", "dS, dk, dq"),)),
)

ALTERNATIVES = (
    """
    dv = np.einsum("bts,btd->bsd", P, dy)
    dP = np.einsum("btd,bsd->bts", dy, v)
    dS = P * dP - P * np.einsum("bts,bts->bt", P, dP)[..., None]
    return dv, dP, dS, np.einsum("bts,bsd->btd", dS, k) * scale, np.einsum("bts,btd->bsd", dS, q) * scale
    """,
    """
    dP = dy @ v.transpose(0, 2, 1)
    delta = (dy * (P @ v)).sum(-1)[..., None]
    dS = np.where(np.tri(P.shape[-1], dtype=bool), P * (dP - delta), 0.0)
    scaled = scale * dS
    dv, dk = P.transpose(0, 2, 1) @ dy, scaled.transpose(0, 2, 1) @ q
    return {"dv": dv, "dP": dP, "dS": dS, "dq": scaled @ k, "dk": dk}
    """,
    """
    parts = [np.zeros_like(a) for a in (v, P, P, q, k)]
    dv, dP, dS, dq, dk = parts
    for b in range(len(dy)):
        dv[b] = P[b].T @ dy[b]
        dP[b] = dy[b] @ v[b].T
        for t in range(P.shape[1]):
            dS[b, t] = (np.diag(P[b, t]) - np.outer(P[b, t], P[b, t])) @ dP[b, t]
        dq[b], dk[b] = scale * dS[b] @ k[b], scale * dS[b].T @ q[b]
    return parts
    """,
)

EXERCISE = Exercise(
    name="attention",
    prefix="AT",
    solution=attention_backward,
    forward=attention_forward,
    shown=("FACTOR", "attention_forward"),
    gradients={"dv": "BTD", "dP": "BTS", "dS": "BTS", "dq": "BTD", "dk": "BTD"},
    sizes={"B": 3, "T": 5, "D": 11},
    case=case,
    terms=terms,
    variants=VARIANTS,
    invariants=INVARIANTS,
    after={"dS": ("dP",), "dq": ("dS",), "dk": ("dS",)},
    hints=HINTS,
    faults=FAULTS,
    alternatives=ALTERNATIVES,
    constants={"FACTOR": ("1.0", "0.5", "2.0")},
    ops=("attend", "attention"),
)
