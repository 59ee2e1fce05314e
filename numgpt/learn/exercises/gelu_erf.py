"""GELU in its erf form: a gate that opens.

Each number is multiplied by the share of a normal distribution that lies below it. This is the form that
papers and most libraries mean; GPT-2 has the other one, with a tanh, and mixing the two up is a mistake of
5e-4 that training hides.

Shapes: x, cdf, dy (N, F)
"""

import math

import numpy as np

from ..exercise import Exercise, Fault, Term, Variant, case_of_pair

SCALE = math.sqrt(2)


def gelu_erf_forward(x):
    """y = x * cdf, where cdf = (1 + erf(x / SCALE)) / 2; NumPy has no erf, the module math has one."""
    cdf = 0.5 + 0.5 * np.vectorize(math.erf, otypes=[float])(x / SCALE)
    return x * cdf, (x, cdf)


def gelu_erf_backward(dy, saved):
    """The gradient dx of sum(dy * y).

    y is a product of x and cdf, where cdf moves with x too:

        erf(z)  = 2/sqrt(pi) * (integral of exp(-s**2) from 0 to z)     so erf'(z) = …
        dcdf/dx = 1/2 * erf'(x / SCALE) * …                             by the chain rule
        dy/dx   = cdf + x * dcdf/dx                                     because y is a product

    Put the lines together, and multiply by what comes from above.
    """
    x, cdf = saved
    # yours
    z = x / SCALE
    density = np.exp(-(z**2)) / (math.sqrt(math.pi) * SCALE)
    dx = dy * (cdf + x * density)
    return dx


def case(rng, N, F):
    """Random arrays of these sizes, and what the terms are made of."""
    x, dy = 1.5 * rng.standard_normal((2, N, F))
    _, (_, cdf) = gelu_erf_forward(x)
    numbers = {"N": N, "F": F, "π": math.pi, "SCALE": SCALE}
    density = np.exp(-((x / SCALE) ** 2)) / (math.sqrt(math.pi) * SCALE)
    return case_of_pair(gelu_erf_forward, {"x": x}, dy, numbers, cdf=cdf, density=density, outer=x)


def terms(v):
    """The signed sums that the gradients are."""
    return {
        "dx": (
            Term("cdf", "dy * cdf", v.dy * v.cdf),
            Term("density", "dy * x * density", v.dy * v.outer * v.density),
        )
    }


def as_tanh(v):
    """The gate and its slope as the tanh form has them."""
    k = math.sqrt(2 / math.pi)
    t = np.tanh(k * (v.x + 0.044715 * v.x**3))
    return v.but(cdf=0.5 * (1 + t), density=0.5 * (1 - t * t) * k * (1 + 3 * 0.044715 * v.x**2))


NORMAL = 1 / (math.sqrt(math.pi) * SCALE)
VARIANTS = (
    Variant("TANH", "is that of GELU's tanh form", as_tanh),
    Variant(
        "SCALE_LEFT_OUT_OF_EXP",
        "has exp(-x²), where x / SCALE is to be squared",
        lambda v: v.but(density=np.exp(-v.x * v.x) * NORMAL),
    ),
    Variant("X_LEFT_OUT", "lacks the x before the density", lambda v: v.but(outer=1.0)),
    Variant("X_SQUARED", "has x² before the density", lambda v: v.but(outer=v.x**2)),
    Variant(
        "EXP_UPWARDS",
        "has exp(+z²), which grows, for exp(-z²)",
        lambda v: v.but(density=np.exp((v.x / SCALE) ** 2) * NORMAL),
    ),
    Variant("EXP_OF_Z", "has exp(-z) for exp(-z²)", lambda v: v.but(density=np.exp(-v.x / SCALE) * NORMAL)),
    Variant("EXP_MISSING", "lacks exp(-z²)", lambda v: v.but(density=NORMAL * np.ones_like(v.x))),
    Variant("CDF_SLOPE", "has cdf * (1 - cdf) for the density", lambda v: v.but(density=v.cdf * (1 - v.cdf))),
    Variant("ERF_FOR_CDF", "has erf where cdf = (1 + erf)/2 belongs", lambda v: v.but(cdf=2 * v.cdf - 1)),
    Variant("Y_FOR_CDF", "has y, which is x * cdf, where cdf belongs", lambda v: v.but(cdf=v.x * v.cdf)),
)

HINTS = {
    "": (
        "At how many places does x stand in y = x * cdf(x)?",
        "A product rule: the gate's value, plus x times how fast the gate opens.",
        "dx = dy * (cdf + x * exp(-(x/SCALE)**2) / (sqrt(pi) * SCALE))",
    ),
    "DENSITY": (
        "What are the derivative of erf, and that of x / SCALE?",
        "1/2 of cdf, 2/sqrt(pi) of erf, 1/SCALE of the chain: which of them is lost?",
        "density = np.exp(-(x / SCALE) ** 2) / (math.sqrt(math.pi) * SCALE)",
    ),
    "DY_IGNORED": (
        "You have the slope of the function. What makes a gradient of it?",
        "What comes from above multiplies the slope.",
        "dx = dy * slope",
    ),
}

DX = "dx = dy * (cdf + x * density)"
FAULTS = (
    Fault("the slope, without dy", ("GE_DY_IGNORED",), ((DX, "dx = cdf + x * density"),)),
    Fault(
        "the density's term forgotten: the gate as a constant",
        ("GE_DENSITY_TERM_MISSING",),
        ((" + x * density", ""),),
    ),
    Fault("the gate's value forgotten", ("GE_CDF_TERM_MISSING",), (("cdf + x", "x"),)),
    Fault(
        "the tanh form's gradient (nanoGPT #2, keras-bert #129)",
        ("GE_TANH",),
        body="""
        k = math.sqrt(2 / math.pi)
        t = np.tanh(k * (x + 0.044715 * x**3))
        return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * k * (1 + 3 * 0.044715 * x**2))
        """,
    ),
    Fault("exp(-x²)", ("GE_SCALE_LEFT_OUT_OF_EXP",), (("np.exp(-(z**2))", "np.exp(-(x**2))"),)),
    Fault(
        "1/SCALE of the chain lost",
        ("GE_DENSITY_TERM_TIMES_SCALE",),
        (("(math.sqrt(math.pi) * SCALE)", "math.sqrt(math.pi)"),),
    ),
    Fault(
        "the factor 1/sqrt(pi) lost",
        ("GE_DENSITY_TERM_TIMES_ROOT_PI",),
        (("(math.sqrt(math.pi) * SCALE)", "SCALE"),),
    ),
    Fault("the half of cdf lost", ("GE_DENSITY_TERM_TWICE",), (("np.exp(-(z**2))", "2 * np.exp(-(z**2))"),)),
    Fault("the x before the density lost", ("GE_X_LEFT_OUT",), (("x * density", "density"),)),
    Fault("x² before the density", ("GE_X_SQUARED",), (("x * density", "x * x * density"),)),
    Fault("exp(+z²)", ("GE_EXP_UPWARDS",), (("np.exp(-(z**2))", "np.exp(z**2)"),)),
    Fault("exp(-z)", ("GE_EXP_OF_Z",), (("np.exp(-(z**2))", "np.exp(-z)"),)),
    Fault("cdf (1 - cdf), as of a sigmoid", ("GE_CDF_SLOPE",), (("x * density", "x * cdf * (1 - cdf)"),)),
    Fault("erf for the gate", ("GE_ERF_FOR_CDF",), (("dy * (cdf", "dy * (2 * cdf - 1"),)),
    Fault("the density subtracted", ("GE_DENSITY_TERM_SIGN",), (("cdf + x", "cdf - x"),)),
    Fault("y for the gate", ("GE_Y_FOR_CDF",), (("dy * (cdf", "dy * (x * cdf"),)),
)

ALTERNATIVES = (
    """
    return dy * cdf + dy * x * np.exp(-x * x / SCALE**2) / SCALE / math.sqrt(math.pi)
    """,
    """
    slope = 2 / math.sqrt(math.pi) * np.exp(-np.square(x / SCALE))
    return [dy * (cdf + x * slope / (2 * SCALE))]
    """,
    """
    dcdf = dy * x
    dz = dcdf * 0.5 * 2 / np.sqrt(np.pi) / np.exp((x / SCALE) ** 2)
    return {"dx": dy * cdf + dz / SCALE}
    """,
)

EXERCISE = Exercise(
    name="gelu_erf",
    prefix="GE",
    solution=gelu_erf_backward,
    forward=gelu_erf_forward,
    shown=("SCALE", "gelu_erf_forward"),
    gradients={"dx": "NF"},
    sizes={"N": 5, "F": 7},
    case=case,
    terms=terms,
    variants=VARIANTS,
    hints=HINTS,
    faults=FAULTS,
    alternatives=ALTERNATIVES,
    constants={"SCALE": ("math.sqrt(2)", "1.25", "1.75")},
    ops=("gelu",),
)
