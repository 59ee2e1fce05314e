"""Residual sums: where a value goes two ways, two gradients come back.

A block of a transformer adds to its stream what a branch makes of it. Forward, the stream goes two ways:
past the branch and through it. Backward, the two gradients are added. This block has two such sums; the
branches and their gradients are given.

Shapes: x, h, y, dy (B, T, C) · A, M (C, C)
"""

import numpy as np

from ..exercise import Case, Exercise, Fault, Invariant, Term, Values, Variant


def branch_forward(x, weight):
    """tanh(x weight)."""
    t = np.tanh(x @ weight)
    return t, (t, weight)


def branch_backward(dy, saved):
    """Gradient of branch_forward with respect to x: given, for you to call."""
    t, weight = saved
    return (dy * (1 - t * t)) @ weight.T


def residual_forward(x, A, M):
    """h = x + branch(x, A), then y = h + branch(h, M)."""
    first, saved_first = branch_forward(x, A)
    h = x + first
    second, saved_second = branch_forward(h, M)
    return h + second, (saved_first, saved_second)


def residual_backward(dy, saved):
    """The gradients (dh, dx) of sum(dy * y), with respect to h in the middle and to x.

    h goes two ways, past the second branch and through it:

        y  = h + branch(h, M)           so dh is a sum of …
        h  = x + branch(x, A)           so dx is a sum of …

    branch_backward(gradient of a branch's result, its saved) gives the gradient of its input. Which gradient
    does each branch get?
    """
    saved_first, saved_second = saved
    # yours
    dh = dy + branch_backward(dy, saved_second)
    dx = dh + branch_backward(dh, saved_first)
    return dh, dx


def case(rng, B, T, C):
    """Random arrays of these sizes, and what the terms are made of."""
    x = rng.standard_normal((B, T, C))
    A, M = rng.standard_normal((2, C, C)) / C**0.5
    dy = rng.standard_normal((B, T, C))
    _, saved = residual_forward(x, A, M)
    first, second = saved

    def loss(forward, inputs):
        return float((dy * forward(inputs["x"], A, M)[0]).sum())

    dh = dy + branch_backward(dy, second)
    values = Values(dy=dy, dh=dh, into_second=dy, into_first=None, first=first, second=second)
    return Case((dy, saved), values, {"x": x}, loss, {"B": B, "T": T, "C": C})


def terms(v):
    """The signed sums that the gradients are."""
    into_first = v.dh if v.into_first is None else v.into_first
    return {
        "dh": (
            Term("second_skip", "dy", v.dy * np.ones_like(v.dh)),
            Term(
                "second_branch", "branch_backward(dy, saved_second)", branch_backward(v.into_second, v.second)
            ),
        ),
        "dx": (
            Term("first_skip", "dh", v.dh * np.ones_like(v.dh)),
            Term("first_branch", "branch_backward(dh, saved_first)", branch_backward(into_first, v.first)),
        ),
    }


def with_swapped(v):
    """The values with what each branch saved in the other's place."""
    return v.but(first=v.second, second=v.first)


VARIANTS = (
    Variant(
        "DY_FOR_DH",
        "is made of dy where dh belongs: it passes the second sum by",
        lambda v: v.but(dh=v.dy),
        ("dx",),
    ),
    Variant(
        "BRANCH_GETS_DY",
        "gives its branch dy, where h's whole gradient dh belongs",
        lambda v: v.but(into_first=v.dy),
        ("dx",),
    ),
    Variant(
        "BRANCH_GETS_BRANCH",
        "gives its branch what came back through the second branch, without what came past it",
        lambda v: v.but(into_first=v.dh - v.dy),
        ("dx",),
    ),
    Variant("BRANCHES_SWAPPED", "uses what the other branch has saved", with_swapped),
    Variant(
        "WEIGHT_NOT_USED",
        "has tanh's slope alone where the branch belongs",
        lambda v: v.but(
            first=(v.first[0], np.eye(v.dy.shape[-1])), second=(v.second[0], np.eye(v.dy.shape[-1]))
        ),
    ),
)

INVARIANTS = (
    Invariant(
        "dh",
        "If the branch were 0, y would be h, so what is left of dh without the branch's part is dy.",
        "is off by",
        lambda dh, v: dh - branch_backward(v.dy, v.second) - v.dy,
    ),
    Invariant(
        "dx",
        "If the branch were 0, h would be x, so what is left of dx without the branch's part is dh.",
        "is off by",
        lambda dx, v: dx - branch_backward(v.dh, v.first) - v.dh,
    ),
)

HINTS = {
    "": (
        "At how many places does h stand in y = h + branch(h, M)?",
        "What goes two ways forward gets the sum of two gradients backward.",
        "dh = dy + branch_backward(dy, saved_second), and the same again with dh for x",
    ),
    "SKIP": (
        "What would dx be if both branches gave 0?",
        "A sum passes its gradient on to both of its terms: the way past the branch is one of them.",
        "dx = dh + …",
    ),
    "BRANCH_TERM": (
        "If the branch learns nothing of x, who tells x what the branch did with it?",
        "The way through the branch comes back by branch_backward.",
        "… + branch_backward(dh, saved_first)",
    ),
    "DY_FOR": (
        "What is the gradient of h, of which the first branch's sum is made?",
        "The first sum's gradient is dh, both of its parts.",
        "dx = dh + branch_backward(dh, saved_first)",
    ),
    "BRANCH_GETS": (
        "h = x + branch(x). What is the gradient of branch(x), if that of h is dh?",
        "Both terms of a sum get the same gradient, whole.",
        "branch_backward(dh, saved_first)",
    ),
}

FAULTS = (
    Fault(
        "the skip past the second branch lost (uesina15-max)",
        ("RB_SECOND_SKIP_TERM_MISSING",),
        (("dh = dy + branch", "dh = branch"),),
    ),
    Fault(
        "the skip past the first branch lost (uesina15-max)",
        ("RB_FIRST_SKIP_TERM_MISSING",),
        (("dx = dh + branch", "dx = branch"),),
    ),
    Fault(
        "both skips lost",
        ("RB_SECOND_SKIP_TERM_MISSING", "RB_FIRST_SKIP_TERM_MISSING"),
        (("dh = dy + branch", "dh = branch"), ("dx = dh + branch", "dx = branch")),
    ),
    Fault(
        "the second branch lost",
        ("RB_SECOND_BRANCH_TERM_MISSING",),
        (("dy + branch_backward(dy, saved_second)", "dy + 0"),),
    ),
    Fault(
        "the first branch lost",
        ("RB_FIRST_BRANCH_TERM_MISSING",),
        (("dh + branch_backward(dh, saved_first)", "dh + 0"),),
    ),
    Fault(
        "= where += belongs: the second gradient overwrites the first (micrograd's commonest)",
        ("RB_FIRST_SKIP_TERM_MISSING",),
        (("dx = dh + branch_backward", "dx = dh\ndx = branch_backward"),),
    ),
    Fault(
        "the skip counted twice",
        ("RB_FIRST_SKIP_TERM_TWICE",),
        (("dx = dh + branch", "dx = dh + dh + branch"),),
    ),
    Fault(
        "the first sum gets dy",
        ("RB_DY_FOR_DH",),
        (("dx = dh + branch_backward(dh", "dx = dy + branch_backward(dy"),),
    ),
    Fault(
        "the first branch gets dy", ("RB_BRANCH_GETS_DY",), (("branch_backward(dh", "branch_backward(dy"),)
    ),
    Fault(
        "the first branch gets what came through the second alone",
        ("RB_BRANCH_GETS_BRANCH",),
        (("branch_backward(dh", "branch_backward(dh - dy"),),
    ),
    Fault(
        "the branches' saved swapped",
        ("RB_BRANCHES_SWAPPED",),
        (("dh = dy", "saved_first, saved_second = saved_second, saved_first\ndh = dy"),),
    ),
    Fault(
        "a mean of the two ways",
        ("RB_DX_HALF",),
        (("dx = dh + branch_backward(dh, saved_first)", "dx = (dh + branch_backward(dh, saved_first)) / 2"),),
    ),
    Fault(
        "the branch subtracted", ("RB_FIRST_BRANCH_TERM_SIGN",), (("dx = dh + branch", "dx = dh - branch"),)
    ),
    Fault(
        "dy changed in place",
        ("ARGUMENT_CHANGED",),
        (
            (
                "dh = dy + branch_backward(dy, saved_second)",
                "dh = dy\ndh += branch_backward(dy, saved_second)",
            ),
        ),
    ),
    Fault("the results swapped", ("RB_ORDER",), (("return dh, dx", "return dx, dh"),)),
)

ALTERNATIVES = (
    """
    dx = dy.copy()
    dx += branch_backward(dx, saved_second)
    dh = dx.copy()
    dx += branch_backward(dx, saved_first)
    return dh, dx
    """,
    """
    (t1, A), (t2, M) = saved
    dh = dy + (dy * (1 - t2**2)) @ M.T
    dx = dh + np.einsum("btd,cd->btc", dh - dh * t1**2, A)
    return {"dh": dh, "dx": dx}
    """,
    """
    through = branch_backward(dy, saved_second)
    dx = dy + through + branch_backward(dy, saved_first) + branch_backward(through, saved_first)
    return [dy + through, dx]
    """,
)

EXERCISE = Exercise(
    name="residual",
    prefix="RB",
    solution=residual_backward,
    forward=residual_forward,
    shown=("branch_forward", "branch_backward", "residual_forward"),
    gradients={"dh": "BTC", "dx": "BTC"},
    sizes={"B": 3, "T": 5, "C": 7},
    case=case,
    terms=terms,
    variants=VARIANTS,
    invariants=INVARIANTS,
    after={"dx": ("dh",)},
    hints=HINTS,
    faults=FAULTS,
    alternatives=ALTERNATIVES,
    names={"A": ("A", "W1"), "M": ("M", "W2")},
    ops=("add",),
)
