"""Softmax: the whole row, without its Jacobian.

Each output is an exponential over the sum of a row of them, so one x moves every output of its row. The
Jacobian of a row has C² numbers; times dy, it becomes a product and one sum.

Shapes: x, p, dy (B, T, C); the softmax is over AXIS
"""

import numpy as np

from ..exercise import Exercise, Fault, Invariant, Term, Variant, case_of_pair

AXIS = -1


def softmax_forward(x):
    """p = exp(x) / sum of exp(x) over AXIS; the largest x is taken off first, so that nothing overflows."""
    e = np.exp(x - x.max(AXIS, keepdims=True))
    p = e / e.sum(AXIS, keepdims=True)
    return p, (x, p)


def softmax_backward(dy, saved):
    """The gradient dx of sum(dy * p).

    In one row, x[j] moves p[i] by way of its own exponential, where i is j, and by way of the sum:

        dp[i]/dx[j] = p[i] * ((1 if i is j else 0) - p[j])

        dx[j] = sum over i of dy[i] * dp[i]/dx[j]

    Put the first line into the second. The 1 picks one i; what does the other part sum to?
    """
    x, p = saved
    # yours
    mean = (p * dy).sum(AXIS, keepdims=True)
    dx = p * (dy - mean)
    return dx


def case(rng, B, T, C):
    """Random arrays of these sizes, and what the terms are made of."""
    x, dy = rng.standard_normal((2, B, T, C))
    p, _ = softmax_forward(x)
    values = {"p": p, "ones": np.ones_like(p), "total": lambda a: a.sum(AXIS, keepdims=True), "weigh": weigh}
    return case_of_pair(softmax_forward, {"x": x}, dy + 0.5, {"B": B, "T": T, "C": C}, **values)


def weigh(v):
    """What each row's sum runs over."""
    return v.p * v.dy


def terms(v):
    """The signed sums that the gradients are."""
    return {
        "dx": (
            Term("direct", "p * dy", v.p * v.dy),
            Term("sum", "p * sum(p * dy)", v.p * v.total(v.weigh(v)) * v.ones, -1),
        )
    }


def over(axis):
    """The values with sums over another axis."""
    return lambda v: v.but(total=lambda a: a.sum(axis, keepdims=True))


OTHER_AXES = [axis for axis in (0, 1, 2) if axis != AXIS % 3]
VARIANTS = (
    Variant(
        "ELEMENTWISE",
        "differentiates each p with respect to its own x alone: p * (1 - p) * dy",
        lambda v: v.but(total=lambda a: a),
    ),
    Variant("SUM_OVER_OTHER_AXIS", "sums over another axis than the softmax", over(OTHER_AXES[-1])),
    Variant("SUM_OVER_BATCH", "sums over the batch, not over the axis of the softmax", over(0)),
    Variant("SUM_OVER_ALL", "sums over all axes, not over that of the softmax", over(None)),
    Variant(
        "KEEPDIMS_FORGOTTEN",
        "lacks keepdims=True in its sum: the sums lie along another axis than they should",
        lambda v: v.but(total=lambda a: a.sum(AXIS) * v.ones),
    ),
    Variant(
        "SUM_NOT_WEIGHTED",
        "has sum(dy), where each dy is to be weighted by its p",
        lambda v: v.but(weigh=lambda v: v.dy),
    ),
    Variant("P_LEFT_OUT", "is not multiplied by p", lambda v: v.but(p=v.ones, weigh=lambda _: v.p * v.dy)),
    Variant("P_SQUARED", "has p squared in the sum", lambda v: v.but(weigh=lambda _: v.p * v.p * v.dy)),
    Variant("X_FOR_P", "is made of x where p belongs", lambda v: v.but(p=v.x)),
    Variant(
        "SIGMOID_OF_ALL",
        "multiplies by (1 - p), as of a sigmoid",
        lambda v: v.but(p=v.p * (1 - v.p), weigh=lambda _: v.p * v.dy),
    ),
    Variant("EXP_FOR_P", "is made of exp(x) where p belongs", lambda v: v.but(p=np.exp(v.x))),
)

INVARIANTS = (
    Invariant(
        "dx",
        "Adding a constant to all x of a row does not change its softmax, so dx sums to 0 over it.",
        "sums to",
        lambda dx, v: dx.sum(AXIS),
    ),
)

HINTS = {
    "": (
        "Which p of the row does x[j] move? Its own, and by the sum all the others.",
        "dx[j] = p[j] * (dy[j] minus one number for the whole row).",
        "dx = p * (dy - sum(p * dy)), the sum over AXIS with keepdims=True",
    ),
    "SUM": (
        "What is the sum over i of dy[i] * p[i] * p[j]?",
        "The row's sum is the mean of dy weighted by p, over the axis of the softmax.",
        "(p * dy).sum(AXIS, keepdims=True)",
    ),
    "ELEMENTWISE": (
        "If x[j] grows, p[j] grows. Can the other p of the row stay as they are, when they sum to 1?",
        "p * (1 - p) is the diagonal of the Jacobian; the rest of each row of it is missing.",
        "dx = p * (dy - sum(p * dy))",
    ),
    "P_LEFT": (
        "By how much can a p move that is almost 0?",
        "Everything is multiplied by p.",
        "dx = p * ( … )",
    ),
}

FAULTS = (
    Fault("p * dy: the sum is missing", ("SM_SUM_TERM_MISSING",), (("p * (dy - mean)", "p * dy"),)),
    Fault(
        "entry by entry: p (1 - p) (uesina15-max)",
        ("SM_ELEMENTWISE",),
        (("p * (dy - mean)", "p * (1 - p) * dy"),),
    ),
    Fault("the sum added", ("SM_SUM_TERM_SIGN",), (("dy - mean", "dy + mean"),)),
    Fault("a mean for the sum", ("SM_SUM_TERM_OVER_C",), (("(p * dy).sum(", "(p * dy).mean("),)),
    Fault(
        "the sum over another axis",
        ("SM_SUM_OVER_OTHER_AXIS",),
        (("sum(AXIS", "sum(1 if AXIS == -1 else -1"),),
    ),
    Fault("the sum over the batch", ("SM_SUM_OVER_BATCH",), (("sum(AXIS", "sum(0"),)),
    Fault("the sum over all axes", ("SM_SUM_OVER_ALL",), (("sum(AXIS, keepdims=True)", "sum()"),)),
    Fault("dy not weighted in the sum", ("SM_SUM_NOT_WEIGHTED",), (("(p * dy).sum", "dy.sum"),)),
    Fault("not multiplied by p", ("SM_P_LEFT_OUT",), (("p * (dy - mean)", "dy - mean"),)),
    Fault("p squared in the sum", ("SM_P_SQUARED",), (("(p * dy).sum", "(p * p * dy).sum"),)),
    Fault("x for p", ("SM_X_FOR_P",), (("mean = ", "p = x\nmean = "),)),
    Fault(
        "exp(x), not divided by the sum, for p", ("SM_EXP_FOR_P",), (("mean = ", "p = np.exp(x)\nmean = "),)
    ),
    Fault("the sign turned round", ("SM_DX_SIGN",), (("dy - mean", "mean - dy"),)),
    Fault(
        "a factor (1 - p) beside the sum",
        ("SM_SIGMOID_OF_ALL",),
        (("p * (dy - mean)", "p * (1 - p) * (dy - mean)"),),
    ),
    Fault("keepdims forgotten", ("SM_KEEPDIMS_FORGOTTEN",), ((", keepdims=True", ""),)),
)

ALTERNATIVES = (
    """
    direct = p * dy
    return direct - p * direct.sum(AXIS, keepdims=True)
    """,
    """
    rows, drows = np.moveaxis(p, AXIS, -1), np.moveaxis(dy, AXIS, -1)
    jacobian = rows[..., :, None] * (np.eye(rows.shape[-1]) - rows[..., None, :])
    return np.moveaxis((drows[..., None, :] @ jacobian)[..., 0, :], -1, AXIS)
    """,
    """
    e = np.exp(x - x.max(AXIS, keepdims=True))
    total = e.sum(AXIS, keepdims=True)
    dtotal = -(dy * e).sum(AXIS, keepdims=True) / total**2
    return [(dy / total + dtotal) * e]
    """,
)

EXERCISE = Exercise(
    name="softmax",
    prefix="SM",
    solution=softmax_backward,
    forward=softmax_forward,
    shown=("AXIS", "softmax_forward"),
    gradients={"dx": "BTC"},
    sizes={"B": 3, "T": 5, "C": 7},
    case=case,
    terms=terms,
    variants=VARIANTS,
    invariants=INVARIANTS,
    hints=HINTS,
    faults=FAULTS,
    alternatives=ALTERNATIVES,
    constants={"AXIS": ("-1", "1")},
    ops=("attention_probs",),
)
