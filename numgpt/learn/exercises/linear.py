"""A linear layer: transposes, and sums over what is shared.

Each of the B·T vectors of C numbers becomes one of F numbers. The matrix W and the bias b are shared by all
vectors. A product of two factors gives each factor the gradient times the other, summed over every axis that
the factor does not have.

Shapes: x (B, T, C) · W (C, F) · b (F) · y, dy (B, T, F)
"""

import numpy as np

from ..exercise import Exercise, Fault, Invariant, Term, Variant, case_of_pair


def linear_forward(x, W, b):
    """y = x W + b: y[b,t,f] is the sum over c of x[b,t,c] * W[c,f], plus b[f]."""
    return x @ W + b, (x, W)


def linear_backward(dy, saved):
    """The gradients (dx, dW, db) of sum(dy * y).

    With indices, for each vector n = (b, t):

        y[n,f]  = (sum over c of x[n,c] * W[c,f]) + b[f]

        dx[n,c] = sum over f of dy[n,f] * …             because x[n,c] moves y[n,f], for every o
        dW[c,f] = sum over n of dy[n,f] * …             because W[c,f] moves y[n,f], for every n
        db[f]   = sum over n of dy[n,f] * …             because b[f] moves y[n,f], for every n

    Put in by how much, and write each sum as a product of matrices: x.reshape(-1, C) has one row for each n.
    """
    x, W = saved
    # yours
    rows = x.reshape(-1, x.shape[-1])
    drows = dy.reshape(-1, dy.shape[-1])
    dx = dy @ W.T
    dW = rows.T @ drows
    db = drows.sum(0)
    return dx, dW, db


def case(rng, B, T, C, F):
    """Random arrays of these sizes, and what the terms are made of."""
    inputs = {
        "x": rng.standard_normal((B, T, C)) + 0.5,
        "W": rng.standard_normal((C, F)),
        "b": rng.standard_normal(F),
    }
    dy = rng.standard_normal((B, T, F)) + 0.5
    numbers = {"B": B, "T": T, "C": C, "F": F}
    return case_of_pair(linear_forward, inputs, dy, numbers, rows=lambda a: a.sum((0, 1)))


def terms(v):
    """The signed sums that the gradients are."""
    return {
        "dx": (Term("dx", "dy @ W.T", v.dy @ v.W.T),),
        "dW": (Term("dW", "sum_BT(x[:, :, :, None] * dy[:, :, None, :])", outer_sum(v)),),
        "db": (Term("db", "sum_BT(dy)", v.rows(v.dy)),),
    }


def outer_sum(v):
    """Σ over all vectors of the outer product of x and dy."""
    return v.rows(v.x[..., :, None] * v.dy[..., None, :])


def turned(v):
    """W as its own transpose: what runs only where C equals F."""
    return v.but(W=v.W.T)


VARIANTS = (
    Variant("W_NOT_TRANSPOSED", "is dy @ W, where W.T is needed", turned, ("dx",)),
    Variant(
        "DW_TURNED_ROUND",
        "is dy.T @ x, the transpose of what is needed",
        lambda v: v.but(x=v.dy, dy=v.x),
        ("dW",),
    ),
    Variant(
        "W_FOR_X",
        "is made of W where x belongs",
        lambda v: v.but(x=v.dy @ v.W.T),
        ("dW",),
    ),
    Variant("Y_FOR_DY", "is made of x W where dy belongs", lambda v: v.but(dy=v.x @ v.W)),
)

INVARIANTS = (
    Invariant(
        "db",
        "Adding 1 to all of b adds 1 to every output, so db sums to the sum of dy.",
        "is off by",
        lambda db, v: db.sum(keepdims=True) - v.dy.sum(),
    ),
    Invariant(
        "dW",
        "Making W a little larger, all by one factor, makes x W larger by it: sum(dW * W) = sum(dy * x W).",
        "is off by",
        lambda dW, v: np.atleast_1d((dW * v.W).sum() - (v.dy * (v.x @ v.W)).sum()),
    ),
    Invariant(
        "dx",
        "Making x a little larger, all by one factor, makes x W larger by it: sum(dx * x) = sum(dy * x W).",
        "is off by",
        lambda dx, v: np.atleast_1d((dx * v.x).sum() - (v.dy * (v.x @ v.W)).sum()),
    ),
)

HINTS = {
    "": (
        "Write y[n,f] as a sum. Which numbers of y does one number of the factor move?",
        "Each factor's gradient is dy times the other factor, summed over the axes that the factor lacks.",
        "dx = dy @ W.T, dW = rows.T @ drows, db = drows.sum(0)",
    ),
    "_DX": (
        "x[n,c] moves y[n,f] for every f, by W[c,f]. Over which axis is the sum?",
        "dx has C numbers for each vector, dy has F: which matrix leads from F to C?",
        "dx = dy @ W.T",
    ),
    "W_NOT": (
        "What is the shape of W, and which of its axes does dy have?",
        "dy @ W sums over the wrong axis of W; it runs only where C equals F.",
        "dx = dy @ W.T",
    ),
    "_DW": (
        "How many vectors use W[c,f]?",
        "All B·T vectors share W: flatten b and t into rows, then the product of matrices sums over them.",
        "dW = x.reshape(-1, C).T @ dy.reshape(-1, F)",
    ),
    "_DB": (
        "How many outputs does b[f] shift?",
        "All B·T vectors share b: sum dy over b and t, and over nothing else.",
        "db = dy.sum((0, 1))",
    ),
}

FAULTS = (
    Fault("W not transposed: dy @ W", ("LIN_W_NOT_TRANSPOSED",), (("dy @ W.T", "dy @ W"),)),
    Fault(
        "dW not summed over the batch: one matrix for each of it",
        ("LIN_DW_NOT_SUMMED",),
        (("rows.T @ drows", "x.swapaxes(-1, -2) @ dy"),),
    ),
    Fault("dW transposed", ("LIN_DW_TRANSPOSED",), (("rows.T @ drows", "drows.T @ rows"),)),
    Fault(
        "dW a mean over all rows (uesina15-max: the batch axis ignored)",
        ("LIN_DW_OVER_B_T",),
        (("rows.T @ drows", "rows.T @ drows / len(rows)"),),
    ),
    Fault(
        "an extra 1/m, m the batch (deeplearning.ai 71024)",
        ("LIN_DW_OVER_B", "LIN_DB_OVER_B"),
        (("rows.T @ drows", "rows.T @ drows / len(x)"), ("drows.sum(0)", "drows.sum(0) / len(x)")),
    ),
    Fault(
        "dW of the last of the batch: = where += belongs",
        ("LIN_LAST_ONLY",),
        (("dW = rows.T @ drows", "for i in range(len(x)):\n    dW = x[i].T @ dy[i]"),),
    ),
    Fault(
        "dW of the first of the batch (uesina15-max: the batch axis ignored)",
        ("LIN_FIRST_ONLY",),
        (("rows.T @ drows", "x[0].T @ dy[0]"),),
    ),
    Fault("db not summed over the positions", ("LIN_DB_NOT_SUMMED",), (("drows.sum(0)", "dy.sum(0)"),)),
    Fault(
        "db with the axes kept",
        ("LIN_DB_KEEPDIMS",),
        (("drows.sum(0)", "drows.sum(0, keepdims=True)"),),
    ),
    Fault("db a mean", ("LIN_DB_OVER_B_T",), (("drows.sum(0)", "drows.mean(0)"),)),
    Fault(
        "db of the last position alone",
        ("LIN_LAST_POSITION_ONLY",),
        (("drows.sum(0)", "dy[:, -1].sum(0)"),),
    ),
    Fault("dW without dy", ("LIN_DY_IGNORED",), (("rows.T @ drows", "rows.T @ np.ones_like(drows)"),)),
    Fault(
        "db the number of rows",
        ("LIN_DY_IGNORED",),
        (("drows.sum(0)", "np.full(dy.shape[-1], 1.0 * len(drows))"),),
    ),
    Fault("dx with the wrong sign", ("LIN_DX_SIGN",), (("dy @ W.T", "-dy @ W.T"),)),
    Fault("results in another order", ("LIN_ORDER",), (("return dx, dW, db", "return dW, dx, db"),)),
    Fault("the bias forgotten", ("COUNT",), (("return dx, dW, db", "return dx, dW"),)),
    Fault("dx summed over the batch too", ("LIN_DX_REDUCED",), (("dy @ W.T", "(dy @ W.T).sum(0)"),)),
    Fault("x W for dy in dW", ("LIN_Y_FOR_DY",), (("rows.T @ drows", "rows.T @ (rows @ W)"),)),
)

ALTERNATIVES = (
    """
    dx = np.einsum("btf,cf->btc", dy, W)
    dW = np.einsum("btc,btf->cf", x, dy)
    return dx, dW, np.einsum("btf->f", dy)
    """,
    """
    dW = np.zeros_like(W)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            dW += np.outer(x[i, j], dy[i, j])
    return (W @ dy[..., None])[..., 0], dW, dy.sum(axis=(0, 1))
    """,
    """
    dW = (x.swapaxes(-1, -2) @ dy).sum(0)
    return np.tensordot(dy, W, ([2], [1])), dW, dy.sum(1).sum(0)
    """,
)

EXERCISE = Exercise(
    name="linear",
    prefix="LIN",
    solution=linear_backward,
    forward=linear_forward,
    shown=("linear_forward",),
    gradients={"dx": "BTC", "dW": "CF", "db": "F"},
    sizes={"B": 3, "T": 5, "C": 7, "F": 11},
    case=case,
    terms=terms,
    variants=VARIANTS,
    invariants=INVARIANTS,
    hints=HINTS,
    faults=FAULTS,
    alternatives=ALTERNATIVES,
    names={"W": ("W", "weight", "A")},
    ops=("linear",),
)
