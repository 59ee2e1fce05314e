"""RMSNorm: LayerNorm without its mean.

Each vector of C numbers is scaled to mean square 1, then scaled by gamma, which all vectors share. Nothing is
taken off, so LayerNorm's term with the mean is not there; one number of x still moves the scale of its whole
vector, and with it every output of that vector.

Shapes: x, dy (B, T, C) · rstd (B, T, 1) · gamma (C)
"""

import numpy as np

from ..exercise import Exercise, Fault, Invariant, Term, Variant, case_of_pair

EPS = 1e-5


def rmsnorm_forward(x, gamma):
    """y = x * rstd * gamma, where rstd = 1 / sqrt(mean of x squared + EPS)."""
    rstd = ((x * x).mean(-1, keepdims=True) + EPS) ** -0.5
    return x * rstd * gamma, (x, rstd, gamma)


def rmsnorm_backward(dy, saved):
    """The gradients (dx, dgamma) of sum(dy * y).

    gamma is shared by all B·T vectors, and scales xhat = x * rstd:

        y[b,t,c] = xhat[b,t,c] * gamma[c]               so dgamma is a sum over b and t

    x acts through xhat = x * r, with r = rstd. Let g = dy * gamma, the gradient of xhat. In one vector:

        dr/dx[c] = -r**2 * xhat[c] / C                  because r = (mean(x**2) + EPS) ** -0.5
        dx       = r * g + (sum of g * x) * dr/dx       because xhat is a product

    Put the first line into the second, and use that r * x is xhat. Two terms are left.
    """
    x, rstd, gamma = saved
    # yours
    xhat = x * rstd
    g = dy * gamma
    along = (g * xhat).mean(-1, keepdims=True)
    dx = rstd * (g - xhat * along)
    dgamma = (dy * xhat).sum((0, 1))
    return dx, dgamma


def case(rng, B, T, C):
    """Random arrays of these sizes, and what the terms are made of."""
    x = rng.standard_normal((B, T, C)) + 0.5
    gamma = rng.standard_normal(C) + 1
    dy = rng.standard_normal((B, T, C))
    _, (_, rstd, _) = rmsnorm_forward(x, gamma)
    values = {
        "rstd": rstd,
        "xhat": x * rstd,
        "inside": x * rstd,
        "gamma_inside": gamma,
        "less": lambda g: 0 * g,
    }
    values |= {"raw": (x * x).mean(-1, keepdims=True) ** -0.5, "mean": over_channels}
    values |= {"deviation": (x.var(-1, keepdims=True) + EPS) ** -0.5, "scaled": lambda v: v.dy}
    return case_of_pair(rmsnorm_forward, {"x": x, "gamma": gamma}, dy, {"B": B, "T": T, "C": C}, **values)


def over_channels(a):
    """The mean over C, its axis kept."""
    return a.mean(-1, keepdims=True)


def terms(v):
    """The signed sums that the gradients are."""
    g = v.dy * v.gamma
    direct = g - v.less(g)
    along = v.mean(v.dy * v.gamma_inside * v.inside)
    return {
        "dx": (
            Term("upstream", "rstd * g", v.rstd * direct),
            Term("xhat", "rstd * xhat * mean_C(g * xhat)", v.rstd * v.xhat * along, -1),
        ),
        "dgamma": (Term("dgamma", "sum_BT(dy * xhat)", (v.scaled(v) * v.xhat).sum((0, 1))),),
    }


def over(axis):
    """The values with the means over another axis."""
    return lambda v: v.but(mean=lambda a: a.mean(axis, keepdims=True))


def unless_small(a, beside):
    """a, or 0 where it is small: only EPS leaves it from 0."""
    return np.where(abs(a) > 0.1 * beside, a, 0)


VARIANTS = (
    Variant(
        "GAMMA_NOT_APPLIED",
        "does not use gamma: g = dy * gamma",
        lambda v: v.but(gamma=1.0, gamma_inside=1.0),
        ("dx",),
    ),
    Variant(
        "GAMMA_NOT_INSIDE",
        "has dy in its mean, where g = dy * gamma belongs",
        lambda v: v.but(gamma_inside=1.0),
        ("dx",),
    ),
    Variant("RSTD_MISSING", "lacks the factor rstd", lambda v: v.but(rstd=1.0), ("dx",)),
    Variant("RSTD_SQUARED", "has rstd squared", lambda v: v.but(rstd=v.rstd**2), ("dx",)),
    Variant("RSTD_INVERTED", "is divided by rstd, not multiplied", lambda v: v.but(rstd=1 / v.rstd), ("dx",)),
    Variant("EPS_LEFT_OUT", "has an rstd without EPS", lambda v: v.but(rstd=v.raw), ("dx",)),
    Variant(
        "DEVIATION_FOR_RMS",
        "has LayerNorm's rstd, with the mean taken off x: use the rstd that was saved",
        lambda v: v.but(rstd=v.deviation),
        ("dx",),
    ),
    Variant("MEAN_OVER_T", "takes its mean over T instead of C", over(1), ("dx",)),
    Variant("MEAN_OVER_B", "takes its mean over B instead of C", over(0), ("dx",)),
    Variant("MEAN_OVER_ALL", "takes its mean over all axes instead of C", over(None), ("dx",)),
    Variant("X_FOR_XHAT", "uses x for xhat = x * rstd", lambda v: v.but(xhat=v.x, inside=v.x)),
    Variant(
        "X_ONCE",
        "has x for xhat once in its second term, where both factors are xhat: rstd is once too few",
        lambda v: v.but(inside=v.x),
        ("dx",),
    ),
    Variant(
        "MEAN_TAKEN_OFF",
        "has LayerNorm's term with mean(g): here no mean is taken off x",
        lambda v: v.but(less=over_channels),
        ("dx",),
    ),
    Variant(
        "GAMMA_IN_DGAMMA",
        "is made of g = dy * gamma, where dy belongs: y is linear in gamma",
        lambda v: v.but(scaled=lambda v: v.dy * v.gamma),
        ("dgamma",),
    ),
)

INVARIANTS = (
    Invariant(
        "dx",
        "Stretching x[b,t,:] hardly changes the output, so dx * x sums to almost 0 over C.",
        "sums to",
        lambda dx, v: unless_small((dx * v.x).sum(-1), abs(dx * v.x).sum(-1)),
    ),
    Invariant(
        "dgamma",
        "A larger gamma makes y larger by the same factor, so gamma * dgamma sums to sum(dy * y).",
        "is off by",
        lambda dgamma, v: (dgamma * v.gamma).sum() - (v.dy * v.xhat * v.gamma).sum(),
    ),
)

HINTS = {
    "": (
        "Which outputs does one number x[b,t,c] move? It is part of a mean of squares.",
        "dx has one term for the direct way, and one for the way through rstd. There is no mean to be moved.",
        "dx = rstd * (g - xhat * mean(g * xhat)), g = dy * gamma, the mean over C",
    ),
    "DGAMMA": (
        "How many outputs does gamma[c] scale, and by what is it multiplied there?",
        "All B·T vectors share gamma: their gradients add up, they are not averaged.",
        "dgamma = sum over b and t of dy * xhat",
    ),
    "XHAT_TERM": (
        "What happens to y[b,t,:] when x[b,t,:] is stretched by a factor?",
        "rstd depends on x too: the term xhat * mean(g * xhat) says so.",
        "subtract xhat * (g * xhat).mean(-1, keepdims=True)",
    ),
    "MEAN_TAKEN": (
        "What happens to y[b,t,:] when the same constant is added to all of x[b,t,:]? Is it nothing, here?",
        "The forward takes no mean off x, so nothing in dx takes a mean off g.",
        "dx = rstd * (g - xhat * mean(g * xhat))",
    ),
    "GAMMA_NOT": (
        "xhat is multiplied by something before it becomes y. By what?",
        "The gradient of xhat is not dy: use g in both terms.",
        "g = dy * gamma",
    ),
    "RSTD": (
        "By how much does xhat move when x moves, if the mean square stood still?",
        "Each of the two terms has the factor rstd, once, beside xhat.",
        "dx = rstd * ( ... )",
    ),
    "X_": (
        "How many factors rstd has the second term in all, when it is written with x alone?",
        "Three: one is the direct one, two make x into xhat twice.",
        "xhat = x * rstd",
    ),
    "MEAN_OVER": (
        "Over which axis did the forward take its mean?",
        "Each vector is scaled by itself, so the mean of the backward is over its C numbers.",
        ".mean(-1, keepdims=True)",
    ),
}

SUM = "(g * xhat).mean(-1, keepdims=True)"
FAULTS = (
    Fault("the mean square taken as a constant", ("RMS_XHAT_TERM_MISSING",), ((" - xhat * along", ""),)),
    Fault(
        "LayerNorm's backward: the mean of g taken off too",
        ("RMS_MEAN_TAKEN_OFF",),
        (("rstd * (g - ", "rstd * (g - g.mean(-1, keepdims=True) - "),),
    ),
    Fault("a sum for the mean", ("RMS_XHAT_TERM_TIMES_C",), ((SUM, "(g * xhat).sum(-1, keepdims=True)"),)),
    Fault("the second term added", ("RMS_XHAT_TERM_SIGN",), (("g - xhat", "g + xhat"),)),
    Fault("the 2 of x squared kept", ("RMS_XHAT_TERM_TWICE",), (("- xhat", "- 2 * xhat"),)),
    Fault("gamma left out of dx", ("RMS_GAMMA_NOT_APPLIED",), (("g = dy * gamma", "g = dy"),)),
    Fault("gamma left out of the mean", ("RMS_GAMMA_NOT_INSIDE",), (("(g * xhat)", "(dy * xhat)"),)),
    Fault("rstd left out", ("RMS_RSTD_MISSING",), (("rstd * (g -", "(g -"),)),
    Fault("rstd squared", ("RMS_RSTD_SQUARED",), (("rstd * (g -", "rstd**2 * (g -"),)),
    Fault("divided by rstd", ("RMS_RSTD_INVERTED",), (("rstd * (g -", "1 / rstd * (g -"),)),
    Fault(
        "the scale computed again, with LayerNorm's variance",
        ("RMS_DEVIATION_FOR_RMS",),
        (("dx = rstd * (g", "dx = (x.var(-1, keepdims=True) + EPS) ** -0.5 * (g"),),
    ),
    Fault("the mean over the positions", ("RMS_MEAN_OVER_T",), ((SUM, "(g * xhat).mean(1, keepdims=True)"),)),
    Fault("the mean over the batch", ("RMS_MEAN_OVER_B",), ((SUM, "(g * xhat).mean(0, keepdims=True)"),)),
    Fault("the mean over everything", ("RMS_MEAN_OVER_ALL",), ((SUM, "(g * xhat).mean()"),)),
    Fault("x for xhat everywhere", ("RMS_X_FOR_XHAT",), (("xhat = x * rstd", "xhat = x"),)),
    Fault("x for xhat in the mean: rstd once too few", ("RMS_X_ONCE",), (("(g * xhat)", "(g * x)"),)),
    Fault("x for xhat before the mean", ("RMS_X_ONCE",), (("g - xhat", "g - x"),)),
    Fault(
        "C - 1 for C (torch.var's default)",
        ("RMS_XHAT_TERM_BESSEL_C",),
        ((SUM, "(g * xhat).sum(-1, keepdims=True) / (x.shape[-1] - 1)"),),
    ),
    Fault(
        "dgamma not summed over the batch",
        ("RMS_DGAMMA_NOT_SUMMED",),
        (("(dy * xhat).sum((0, 1))", "(dy * xhat).sum(1)"),),
    ),
    Fault("dgamma a mean", ("RMS_DGAMMA_OVER_B_T",), (("(dy * xhat).sum((", "(dy * xhat).mean(("),)),
    Fault("g for dy in dgamma", ("RMS_GAMMA_IN_DGAMMA",), (("(dy * xhat).sum", "(g * xhat).sum"),)),
    Fault(
        "two at once: gamma left out, the mean square a constant",
        ("RMS_GAMMA_NOT_APPLIED", "RMS_XHAT_TERM_MISSING"),
        (("g = dy * gamma", "g = dy"), (" - xhat * along", "")),
    ),
)

ALTERNATIVES = (
    """
    C = dy.shape[-1]
    g = dy * gamma
    total = (g * x).sum(-1, keepdims=True)
    dx = rstd * g - x * rstd**3 * total / C
    return dx, np.einsum("btc,btc,bt->c", dy, x, rstd[..., 0])
    """,
    """
    C = dy.shape[-1]
    xhat = x * rstd
    jacobian = np.eye(C) - xhat[..., :, None] * xhat[..., None, :] / C
    dx = rstd * np.einsum("btij,bti->btj", jacobian, dy * gamma)
    return {"dx": dx, "dgamma": (dy * xhat).sum(0).sum(0)}
    """,
    """
    C = x.shape[-1]
    drstd = (dy * gamma * x).sum(-1, keepdims=True)
    dsquare = drstd * -0.5 * rstd**3
    dx = dy * gamma * rstd + dsquare * 2 * x / C
    dgamma = (dy * x * rstd).reshape(-1, C).sum(axis=0)
    return [dx, dgamma]
    """,
)

EXERCISE = Exercise(
    name="rmsnorm",
    prefix="RMS",
    solution=rmsnorm_backward,
    forward=rmsnorm_forward,
    shown=("EPS", "rmsnorm_forward"),
    gradients={"dx": "BTC", "dgamma": "C"},
    sizes={"B": 3, "T": 5, "C": 7},
    case=case,
    terms=terms,
    variants=VARIANTS,
    invariants=INVARIANTS,
    hints=HINTS,
    faults=FAULTS,
    alternatives=ALTERNATIVES,
    names={"gamma": ("gamma", "gain", "weight")},
    constants={"EPS": ("1e-5", "1e-3", "1e-2")},
    ops=("rmsnorm",),
)
