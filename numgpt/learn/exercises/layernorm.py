"""LayerNorm: three terms.

Each vector of C numbers is shifted to mean 0 and scaled to variance 1, then scaled by gamma and shifted by
beta, which all vectors share. One number of x moves the mean and the variance of its whole vector, so it
moves every output of that vector: that is where the second and the third term come from.

Shapes: x, dy, xhat (B, T, C) · rstd (B, T, 1) · gamma, beta (C)
"""

import numpy as np

from ..exercise import Exercise, Fault, Invariant, Term, Variant, case_of_pair

EPS = 1e-5


def layernorm_forward(x, gamma, beta):
    """y = xhat * gamma + beta, where xhat = (x - mean) * rstd and rstd = 1 / sqrt(variance + EPS)."""
    centred = x - x.mean(-1, keepdims=True)
    rstd = ((centred * centred).mean(-1, keepdims=True) + EPS) ** -0.5
    xhat = centred * rstd
    return xhat * gamma + beta, (xhat, rstd, gamma)


def layernorm_backward(dy, saved):
    """The gradients (dx, dgamma, dbeta) of sum(dy * y).

    gamma and beta are shared by all B·T vectors:

        y[b,t,c] = xhat[b,t,c] * gamma[c] + beta[c]     so dgamma and dbeta are sums over b and t

    x acts through xhat = c * r, with c = x - mean(x) and r = rstd. Let g = dy * gamma, the gradient of xhat.
    The mean is over the C channels of one vector.

        dr/dc = -r**2 * xhat / C                        because r = (mean(c**2) + EPS) ** -0.5
        dc    = r * g + (sum of g * c) * dr/dc          because xhat is a product
        dx    = dc - mean(dc)                           because c = x - mean(x)

    Put dc into dx, and use that xhat has mean 0. Three terms are left.
    """
    xhat, rstd, gamma = saved
    # yours
    g = dy * gamma
    mean_g = g.mean(-1, keepdims=True)
    mean_gx = (g * xhat).mean(-1, keepdims=True)
    dx = rstd * (g - mean_g - xhat * mean_gx)
    dgamma = (dy * xhat).sum((0, 1))
    dbeta = dy.sum((0, 1))
    return dx, dgamma, dbeta


def case(rng, B, T, C):
    """Random arrays of these sizes, and what the terms are made of."""
    x = rng.standard_normal((B, T, C)) + 1
    gamma, beta = rng.standard_normal((2, C)) + 1
    dy = rng.standard_normal((B, T, C))
    _, (xhat, rstd, _) = layernorm_forward(x, gamma, beta)
    raw = 1 / np.sqrt(x.var(-1, keepdims=True))
    values = {"xhat": xhat, "rstd": rstd, "raw": raw, "mean": over_channels, "rows": over_rows}
    inputs = {"x": x, "gamma": gamma, "beta": beta}
    return case_of_pair(layernorm_forward, inputs, dy, {"B": B, "T": T, "C": C}, **values)


def over_channels(a):
    """The mean over C, its axis kept."""
    return a.mean(-1, keepdims=True)


def over_rows(a):
    """The sum over B and T."""
    return a.sum((0, 1))


def terms(v):
    """The signed sums that the gradients are."""
    g = v.dy * v.gamma
    return {
        "dx": (
            Term("upstream", "rstd * g", v.rstd * g),
            Term("mean", "rstd * mean_C(g)", v.rstd * v.mean(g) * np.ones_like(g), -1),
            Term("xhat", "rstd * xhat * mean_C(g * xhat)", v.rstd * v.xhat * v.mean(g * v.xhat), -1),
        ),
        "dgamma": (Term("dgamma", "sum_BT(dy * xhat)", v.rows(v.dy * v.xhat)),),
        "dbeta": (Term("dbeta", "sum_BT(dy)", v.rows(v.dy)),),
    }


def unless_small(a, beside):
    """a, or 0 where it is small: only EPS leaves it from 0."""
    return np.where(abs(a) > 0.1 * beside, a, 0)


def uncentred(v):
    """xhat as if the mean had not been taken off."""
    return v.x * v.rstd


VARIANTS = (
    Variant("GAMMA_NOT_APPLIED", "does not use gamma: g = dy * gamma", lambda v: v.but(gamma=1.0), ("dx",)),
    Variant("RSTD_MISSING", "lacks the factor rstd", lambda v: v.but(rstd=1.0), ("dx",)),
    Variant("RSTD_SQUARED", "has rstd squared", lambda v: v.but(rstd=v.rstd**2), ("dx",)),
    Variant("RSTD_INVERTED", "is divided by rstd, not multiplied", lambda v: v.but(rstd=1 / v.rstd), ("dx",)),
    Variant("EPS_LEFT_OUT", "has 1/std without EPS for rstd", lambda v: v.but(rstd=v.raw), ("dx",)),
    Variant(
        "MEAN_OVER_T",
        "takes the means over T instead of C",
        lambda v: v.but(mean=lambda a: a.mean(1, keepdims=True)),
        ("dx",),
    ),
    Variant(
        "MEAN_OVER_B",
        "takes the means over B instead of C",
        lambda v: v.but(mean=lambda a: a.mean(0, keepdims=True)),
        ("dx",),
    ),
    Variant(
        "MEAN_OVER_ALL",
        "takes the means over all axes instead of C",
        lambda v: v.but(mean=lambda a: a.mean(keepdims=True)),
        ("dx",),
    ),
    Variant("X_FOR_XHAT", "uses x * rstd for xhat", lambda v: v.but(xhat=uncentred(v))),
    Variant("X_ITSELF_FOR_XHAT", "uses x for xhat", lambda v: v.but(xhat=v.x)),
    Variant(
        "ROWS_NOT_SUMMED",
        "is of one position only",
        lambda v: v.but(rows=lambda a: a[:, -1].sum(0)),
        ("dbeta",),
    ),
)

INVARIANTS = (
    Invariant(
        "dx",
        "Adding a constant to x[b,t,:] does not change the output, so dx sums to 0 over C.",
        "sums to",
        lambda dx, v: dx.sum(-1),
    ),
    Invariant(
        "dx",
        "Stretching x[b,t,:] about its mean hardly changes the output, so dx * xhat sums to almost 0 over C.",
        "sums to",
        lambda dx, v: unless_small((dx * v.xhat).sum(-1), abs(dx * v.xhat).sum(-1)),
    ),
    Invariant(
        "dbeta",
        "Adding 1 to all of beta adds 1 to every output, so dbeta sums to the sum of dy.",
        "is off by",
        lambda dbeta, v: dbeta.sum(keepdims=True) - v.dy.sum(),
    ),
)

HINTS = {
    "": (
        "Which outputs does one number x[b,t,c] move? It is part of a mean and of a variance.",
        "dx has one term for the direct way, one for the way through the mean, one for the way through rstd.",
        "dx = rstd * (g - mean(g) - xhat * mean(g * xhat)), g = dy * gamma, means over C",
    ),
    "DGAMMA": (
        "How many outputs does gamma[c] scale?",
        "All B·T vectors share gamma: their gradients add up, they are not averaged.",
        "dgamma = sum over b and t of dy * xhat",
    ),
    "DBETA": (
        "How many outputs does beta[c] shift?",
        "All B·T vectors share beta: their gradients add up.",
        "dbeta = sum over b and t of dy",
    ),
    "MEAN_TERM": (
        "What happens to y[b,t,:] when the same constant is added to all of x[b,t,:]?",
        "The mean of the vector moves with x: the term with mean(g) says so.",
        "subtract g.mean(-1, keepdims=True) from g",
    ),
    "XHAT_TERM": (
        "What happens to y[b,t,:] when x[b,t,:] is stretched by a factor about its mean?",
        "rstd depends on x too: the term xhat * mean(g * xhat) says so.",
        "subtract xhat * (g * xhat).mean(-1, keepdims=True)",
    ),
    "GAMMA_NOT": (
        "xhat is multiplied by something before it becomes y. By what?",
        "The gradient of xhat is not dy.",
        "g = dy * gamma",
    ),
    "RSTD": (
        "By how much does xhat move when x moves, if mean and variance stood still?",
        "Each of the three terms has the factor rstd, once.",
        "dx = rstd * ( ... )",
    ),
    "MEAN_OVER": (
        "Over which axis did the forward take its mean?",
        "Each vector is normalised by itself, so the means of the backward are over its C numbers.",
        ".mean(-1, keepdims=True)",
    ),
}

DX = "dx = rstd * (g - mean_g - xhat * mean_gx)"
FAULTS = (
    Fault(
        "the mean taken as a constant (first of the four commonest by uesina15-max's count)",
        ("LN_MEAN_TERM_MISSING",),
        (("g - mean_g - ", "g - "),),
    ),
    Fault(
        "the variance taken as a constant (uesina15-max)",
        ("LN_XHAT_TERM_MISSING",),
        ((" - xhat * mean_gx", ""),),
    ),
    Fault(
        "mean and variance both taken as constants: dx = rstd * g",
        ("LN_MEAN_TERM_MISSING", "LN_XHAT_TERM_MISSING"),
        ((DX, "dx = rstd * g"),),
    ),
    Fault("a sum for the first mean", ("LN_MEAN_TERM_TIMES_C",), (("g.mean(", "g.sum("),)),
    Fault("a sum for the second mean", ("LN_XHAT_TERM_TIMES_C",), (("(g * xhat).mean(", "(g * xhat).sum("),)),
    Fault("the mean's term added", ("LN_MEAN_TERM_SIGN",), (("g - mean_g", "g + mean_g"),)),
    Fault("xhat's term added", ("LN_XHAT_TERM_SIGN",), (("- xhat * mean_gx", "+ xhat * mean_gx"),)),
    Fault("gamma left out of dx", ("LN_GAMMA_NOT_APPLIED",), (("g = dy * gamma", "g = dy"),)),
    Fault("rstd left out", ("LN_RSTD_MISSING",), (("rstd * (g", "(g"),)),
    Fault("rstd squared", ("LN_RSTD_SQUARED",), (("rstd * (g", "rstd * rstd * (g"),)),
    Fault("divided by rstd", ("LN_RSTD_INVERTED",), (("rstd * (g", "1 / rstd * (g"),)),
    Fault(
        "the means over the positions",
        ("LN_MEAN_OVER_T",),
        (("g.mean(-1", "g.mean(1"), ("(g * xhat).mean(-1", "(g * xhat).mean(1")),
    ),
    Fault(
        "the means over the batch (uesina15-max: the batch axis ignored)",
        ("LN_MEAN_OVER_B",),
        (("g.mean(-1", "g.mean(0"), ("(g * xhat).mean(-1", "(g * xhat).mean(0")),
    ),
    Fault(
        "C - 1 for C in the gradient of the variance (torch.var's default)",
        ("LN_XHAT_TERM_BESSEL_C",),
        (("(g * xhat).mean(-1, keepdims=True)", "(g * xhat).sum(-1, keepdims=True) / (g.shape[-1] - 1)"),),
    ),
    Fault(
        "dgamma not summed over the batch",
        ("LN_DGAMMA_NOT_SUMMED",),
        (("(dy * xhat).sum((0, 1))", "(dy * xhat).sum(1)"),),
    ),
    Fault(
        "dgamma a mean over the vectors (deeplearning.ai 71024 has such a 1/m)",
        ("LN_DGAMMA_OVER_B_T",),
        (("(dy * xhat).sum((0, 1))", "(dy * xhat).mean((0, 1))"),),
    ),
    Fault(
        "dbeta with the axes of x kept",
        ("LN_DBETA_KEEPDIMS",),
        (("dy.sum((0, 1))", "dy.sum((0, 1), keepdims=True)"),),
    ),
    Fault(
        "gamma and beta never trained (TinyTorch #1504, masked there by its own test)",
        ("LN_DGAMMA_ZERO", "LN_DBETA_ZERO"),
        (("return dx, dgamma, dbeta", "return dx, 0 * dgamma, 0 * dbeta"),),
    ),
    Fault(
        "two at once: gamma left out, and the variance taken as a constant",
        ("LN_GAMMA_NOT_APPLIED", "LN_XHAT_TERM_MISSING"),
        (("g = dy * gamma", "g = dy"), (" - xhat * mean_gx", "")),
    ),
    Fault(
        "the axis of the channels' size written out, and wrong elsewhere",
        ("LN_MEAN_TERM_TIMES_C_OVER_7", "LN_XHAT_TERM_TIMES_C_OVER_7"),
        (
            ("g.mean(-1, keepdims=True)", "g.sum(-1, keepdims=True) / 7"),
            ("(g * xhat).mean(-1, keepdims=True)", "(g * xhat).sum(-1, keepdims=True) / 7"),
        ),
    ),
    Fault("dy changed in place", ("ARGUMENT_CHANGED",), (("g = dy * gamma", "dy *= gamma\ng = dy"),)),
)

ALTERNATIVES = (
    """
    C = dy.shape[-1]
    g = dy * gamma
    total = g.sum(-1, keepdims=True)
    along = (g * xhat).sum(-1, keepdims=True)
    dx = (C * g - total - xhat * along) * rstd / C
    dgamma = np.einsum("btc,btc->c", dy, xhat)
    return dx, dgamma, np.einsum("btc->c", dy)
    """,
    """
    C = dy.shape[-1]
    g = (dy * gamma).reshape(-1, C)
    rows, r = xhat.reshape(-1, C), rstd.reshape(-1, 1)
    dc = r * (g - rows * (g * rows).mean(1, keepdims=True))
    dx = dc - dc.mean(1, keepdims=True)
    dgamma = (dy.reshape(-1, C) * rows).sum(0)
    return dx.reshape(dy.shape), dgamma, dy.reshape(-1, C).sum(0)
    """,
    """
    C = dy.shape[-1]
    jacobian = np.eye(C) - 1 / C - xhat[..., :, None] * xhat[..., None, :] / C
    dx = rstd * np.einsum("btij,bti->btj", jacobian, dy * gamma)
    return {"dx": dx, "dgamma": (dy * xhat).sum(0).sum(0), "dbeta": dy.sum(1).sum(0)}
    """,
)

EXERCISE = Exercise(
    name="layernorm",
    prefix="LN",
    solution=layernorm_backward,
    forward=layernorm_forward,
    shown=("EPS", "layernorm_forward"),
    gradients={"dx": "BTC", "dgamma": "C", "dbeta": "C"},
    sizes={"B": 3, "T": 5, "C": 7},
    case=case,
    terms=terms,
    variants=VARIANTS,
    invariants=INVARIANTS,
    hints=HINTS,
    faults=FAULTS,
    alternatives=ALTERNATIVES,
    names={"gamma": ("gamma", "gain", "weight"), "beta": ("beta", "shift", "bias")},
    constants={"EPS": ("1e-5", "1e-3", "1e-2")},
    ops=("layernorm",),
)
