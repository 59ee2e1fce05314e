"""SwiGLU: a gate, and what it lets through.

x holds two halves side by side: the gate g and the value u. The output is silu(g) * u, with half as many
channels. A product of two factors gives each the gradient times the other; the gate's own slope has two
terms, because silu(g) = g * sigmoid(g) is a product too.

Shapes: x (B, T, C), C = 2F: the first F channels are g, the others u · sigma, y, dy (B, T, F)
"""

import numpy as np

from ..exercise import Exercise, Fault, Invariant, Term, Variant, case_of_pair


def swiglu_forward(x):
    """y = silu(g) * u: g and u are the halves of x, silu(g) = g * sigma, sigma = 1 / (1 + exp(-g))."""
    g, u = np.split(x, 2, axis=-1)
    sigma = 1 / (1 + np.exp(-g))
    return g * sigma * u, (x, sigma)


def swiglu_backward(dy, saved):
    """The gradient dx of sum(dy * y), with dg in the first half of the channels and du in the second.

    y = g * sigma * u is a product of three, of which two depend on g:

        dsigma/dg = sigma * (1 - sigma)                 because sigma = 1 / (1 + exp(-g))

        du = dy * …                                     because y is linear in u
        dg = dy * u * (… + …)                           because g stands in g, and in sigma

    Put in what u is multiplied by, and the two parts of silu'(g). Then put the halves side by side.
    """
    x, sigma = saved
    g, u = np.split(x, 2, axis=-1)
    # yours
    du = dy * g * sigma
    slope = sigma + g * sigma * (1 - sigma)
    dg = dy * u * slope
    return np.concatenate([dg, du], axis=-1)


def case(rng, B, T, F):
    """Random arrays of these sizes, and what the terms are made of."""
    x = 2 * rng.standard_normal((B, T, 2 * F))
    dy = rng.standard_normal((B, T, F))
    g, u = np.split(x, 2, axis=-1)
    _, (_, sigma) = swiglu_forward(x)
    values = {"g": g, "u": u, "sigma": sigma, "u_in_dg": u, "join": lambda dg, du: (dg, du)}
    values |= {"silu": g * sigma, "slope": sigma * (1 - sigma), "g_in_slope": g}
    made = case_of_pair(swiglu_forward, {"x": x}, dy, {"B": B, "T": T, "F": F}, **values)
    of_gate = np.arange(2 * F) < F
    made.sets["dx"] = {"the half of the gate, dg": of_gate, "the half of the value, du": ~of_gate}
    return made


def terms(v):
    """The signed sums that the gradients are."""
    none = 0 * v.dy
    direct = v.dy * v.u_in_dg * v.sigma
    curved = v.dy * v.u_in_dg * v.g_in_slope * v.slope
    passed = v.dy * v.silu

    def halves(dg, du):
        return np.concatenate(v.join(dg, du), axis=-1)

    return {
        "dx": (
            Term("direct", "dg: dy * u * sigma", halves(direct, none)),
            Term("slope", "dg: dy * u * g * sigma * (1 - sigma)", halves(curved, none)),
            Term("value", "du: dy * g * sigma", halves(none, passed)),
        )
    }


def as_sigmoid_gate(v):
    """dg and du as of y = sigma(g) * u, which is a GLU and no SwiGLU."""
    return v.but(silu=v.sigma, sigma=0 * v.sigma, g_in_slope=1.0)


def of_value(v):
    """dg and du where the gate is the second half: y = g * silu(u)."""
    sigma = 1 / (1 + np.exp(-v.u))
    return v.but(
        g=v.u,
        u=v.g,
        u_in_dg=v.g,
        g_in_slope=v.u,
        sigma=sigma,
        silu=v.u * sigma,
        slope=sigma * (1 - sigma),
        join=lambda dg, du: (du, dg),
    )


VARIANTS = (
    Variant(
        "HALVES_SWAPPED",
        "has du in the first half and dg in the second: x is g, then u",
        lambda v: v.but(join=lambda dg, du: (du, dg)),
    ),
    Variant(
        "GATE_IS_VALUE",
        "takes the second half of x for the gate: the first is g",
        of_value,
    ),
    Variant("U_MISSING", "lacks the factor u in dg", lambda v: v.but(u_in_dg=1.0)),
    Variant(
        "SIGMA_FOR_SILU",
        "has du = dy * sigma: u is multiplied by silu(g) = g * sigma",
        lambda v: v.but(silu=v.sigma),
    ),
    Variant(
        "G_FOR_SILU", "has du = dy * g: u is multiplied by silu(g) = g * sigma", lambda v: v.but(silu=v.g)
    ),
    Variant(
        "SLOPE_IN_DU",
        "has the derivative of silu in du, where silu(g) itself belongs",
        lambda v: v.but(silu=v.sigma + v.g * v.slope),
    ),
    Variant("U_IN_DU", "has u in du, which y is linear in", lambda v: v.but(silu=v.silu * v.u)),
    Variant(
        "SIGMOID_GATE",
        "is the gradient of sigmoid(g) * u: silu has a factor g more",
        as_sigmoid_gate,
    ),
    Variant(
        "SILU_FOR_ITS_SLOPE",
        "has silu(g) in dg where its derivative belongs",
        lambda v: v.but(sigma=v.g * v.sigma, g_in_slope=0.0),
    ),
    Variant("G_MISSING_IN_SLOPE", "lacks g before sigma * (1 - sigma)", lambda v: v.but(g_in_slope=1.0)),
    Variant(
        "SLOPE_WITHOUT_ONE_MINUS",
        "lacks the factor (1 - sigma) in the derivative of sigma",
        lambda v: v.but(slope=v.sigma),
    ),
    Variant(
        "SLOPE_OF_TANH",
        "has 1 - sigma**2, the derivative of tanh, for that of sigma",
        lambda v: v.but(slope=1 - v.sigma**2),
    ),
    Variant(
        "SLOPE_WITHOUT_SIGMA",
        "lacks the factor sigma in the derivative of sigma",
        lambda v: v.but(slope=1 - v.sigma),
    ),
)

INVARIANTS = (
    Invariant(
        "dx",
        "y is linear in u: a larger u makes y larger by the same factor, so u * du is dy * y everywhere.",
        "is off by",
        lambda dx, v: dx[..., v.u.shape[-1] :] * v.u - v.dy * v.g * v.sigma * v.u,
    ),
)

HINTS = {
    "": (
        "y is g * sigma * u. In which of the three factors does g stand, and in which does u?",
        "u stands in one factor: du has one term. g stands in two: dg has two.",
        "dg = dy * u * (sigma + g * sigma * (1 - sigma)), du = dy * g * sigma",
    ),
    "DIRECT": (
        "What would dg be if sigma were a constant?",
        "The factor g itself gives the term sigma.",
        "dy * u * sigma is one of the two terms of dg",
    ),
    "SLOPE": (
        "What is the derivative of 1 / (1 + exp(-g)), written with sigma?",
        "sigma's derivative is sigma * (1 - sigma); in y it is multiplied by g and by u.",
        "dy * u * g * sigma * (1 - sigma) is one of the two terms of dg",
    ),
    "SILU": (
        "By what is u multiplied in the forward?",
        "By silu(g) = g * sigma; and silu's derivative is for dg alone.",
        "du = dy * g * sigma",
    ),
    "VALUE": (
        "By how much does y move when u moves by 1?",
        "By what the gate lets through: silu(g).",
        "du = dy * g * sigma",
    ),
    "HALVES": (
        "Which half of x did the forward call g?",
        "The gradient of each number stands where the number stood.",
        "np.concatenate([dg, du], axis=-1)",
    ),
    "GATE_IS": (
        "Which half of x did the forward call g?",
        "The first half goes through silu, the second is multiplied.",
        "g, u = np.split(x, 2, axis=-1)",
    ),
    "U_MISSING": (
        "How much does the gate matter where u is 0?",
        "Everything in dg is multiplied by u.",
        "dg = dy * u * ( ... )",
    ),
}

SLOPE = "sigma + g * sigma * (1 - sigma)"
FAULTS = (
    Fault("sigma taken as a constant", ("GLU_SLOPE_TERM_MISSING",), ((SLOPE, "sigma"),)),
    Fault(
        "the gate's own factor forgotten: sigma' alone",
        ("GLU_DIRECT_TERM_MISSING",),
        ((SLOPE, "g * sigma * (1 - sigma)"),),
    ),
    Fault("u left out of dg", ("GLU_U_MISSING",), (("dy * u * slope", "dy * slope"),)),
    Fault("g left out of the slope", ("GLU_G_MISSING_IN_SLOPE",), (("+ g * sigma", "+ sigma"),)),
    Fault("1 - sigma left out", ("GLU_SLOPE_WITHOUT_ONE_MINUS",), ((" * (1 - sigma)", ""),)),
    Fault("sigma left out of its own slope", ("GLU_SLOPE_WITHOUT_SIGMA",), (("g * sigma * (1", "g * (1"),)),
    Fault("tanh's slope", ("GLU_SLOPE_OF_TANH",), (("g * sigma * (1 - sigma)", "g * (1 - sigma**2)"),)),
    Fault("the slope subtracted", ("GLU_SLOPE_TERM_SIGN",), (("sigma + g", "sigma - g"),)),
    Fault("silu for its derivative", ("GLU_SILU_FOR_ITS_SLOPE",), ((SLOPE, "g * sigma"),)),
    Fault("du = dy * sigma", ("GLU_SIGMA_FOR_SILU",), (("dy * g * sigma\n", "dy * sigma\n"),)),
    Fault("du = dy * g", ("GLU_G_FOR_SILU",), (("dy * g * sigma\n", "dy * g\n"),)),
    Fault("du = dy * y", ("GLU_U_IN_DU",), (("dy * g * sigma\n", "dy * g * sigma * u\n"),)),
    Fault(
        "the slope in du too",
        ("GLU_SLOPE_IN_DU",),
        (("du = dy * g * sigma", "du = dy * (sigma + g * sigma * (1 - sigma))"),),
    ),
    Fault(
        "the gradient of sigmoid(g) * u, a GLU",
        ("GLU_SIGMOID_GATE",),
        (("dy * g * sigma\n", "dy * sigma\n"), (SLOPE, "sigma * (1 - sigma)")),
    ),
    Fault("the halves swapped", ("GLU_HALVES_SWAPPED",), (("[dg, du]", "[du, dg]"),)),
    Fault(
        "gate and value taken for each other (checkpoints pack them in both orders)",
        ("GLU_GATE_IS_VALUE",),
        (
            (
                "du = dy * g * sigma",
                "g, u = u, g\nsigma = 1 / (1 + np.exp(-g))\ndu = dy * g * sigma",
            ),
            ("[dg, du]", "[du, dg]"),
        ),
    ),
    Fault("du forgotten: 0", ("GLU_VALUE_TERM_MISSING",), (("[dg, du]", "[dg, 0 * du]"),)),
    Fault("dy not used in dg and du", ("GLU_DY_IGNORED",), (("dg = dy", "dg = 1"), ("du = dy", "du = 1"))),
    Fault(
        "two at once: the halves swapped, sigma a constant",
        ("GLU_HALVES_SWAPPED", "GLU_SLOPE_TERM_MISSING"),
        (("[dg, du]", "[du, dg]"), (SLOPE, "sigma")),
    ),
    Fault("one half only", ("GLU_DX_SHAPE",), (("np.concatenate([dg, du], axis=-1)", "dg"),)),
)

ALTERNATIVES = (
    """
    silu = g * sigma
    dx = np.empty_like(x)
    F = g.shape[-1]
    dx[..., :F] = dy * u * (silu + sigma * (1 - silu))
    dx[..., F:] = dy * silu
    return dx
    """,
    """
    e = np.exp(-g)
    dg = dy * u * (1 + e + g * e) / (1 + e) ** 2
    return np.concatenate((dg, dy * g / (1 + e)), -1)
    """,
    """
    dsilu = dy * u
    dsigma = dsilu * g
    dg = dsilu * sigma
    dg = dg + dsigma * sigma * (1 - sigma)
    halves = np.stack([dg, dy * (g * sigma)], axis=-2)
    return (halves.reshape(x.shape),)
    """,
)

EXERCISE = Exercise(
    name="swiglu",
    prefix="GLU",
    solution=swiglu_backward,
    forward=swiglu_forward,
    shown=("swiglu_forward",),
    gradients={"dx": "BTC"},
    sizes={"B": 3, "T": 5, "F": 7},
    case=case,
    terms=terms,
    variants=VARIANTS,
    invariants=INVARIANTS,
    hints=HINTS,
    faults=FAULTS,
    alternatives=ALTERNATIVES,
    names={"sigma": ("sigma", "s", "gate"), "u": ("u", "value", "up")},
    ops=("swiglu",),
)
