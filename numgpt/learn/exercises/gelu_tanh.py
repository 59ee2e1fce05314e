"""GELU in its tanh form: the chain inside a product.

The activation of GPT-2. Each number goes through it by itself, so there are no sums here. But x stands in it
twice, outside of the tanh and inside: a product rule, a chain rule, and the derivative of a cube.

Shapes: x, dy (N, F)
"""

import math

import numpy as np

from ..exercise import Exercise, Fault, Term, Variant, case_of_pair

A = 0.044715
K = math.sqrt(2 / math.pi)


def gelu_tanh_forward(x):
    """y = x/2 * (1 + tanh(u)), where u = K * (x + A * x**3)."""
    t = np.tanh(K * (x + A * x**3))
    return 0.5 * x * (1 + t), (x, t)


def gelu_tanh_backward(dy, saved):
    """The gradient dx of sum(dy * y).

    y is a product of x/2 and 1 + t, where t = tanh(u) moves with x too:

        dy/dx = 1/2 * (1 + t) + x/2 * dt/dx                 because y is a product
        dt/dx = (1 - t**2) * du/dx                          because tanh' = 1 - tanh²
        du/dx = K * …                                       because u = K * (x + A * x**3)

    Put the lines together, and multiply by what comes from above.
    """
    x, t = saved
    # yours
    du = K * (1 + 3 * A * x**2)
    dt = (1 - t**2) * du
    dx = dy * (0.5 * (1 + t) + 0.5 * x * dt)
    return dx


def case(rng, N, F):
    """Random arrays of these sizes, and what the terms are made of."""
    x, dy = 1.5 * rng.standard_normal((2, N, F))
    _, (_, t) = gelu_tanh_forward(x)
    numbers = {"N": N, "F": F, "A": A, "K": K}
    values = {"t": t, "slope": 1 - t**2, "outer": 0.5 * x, "k": K, "inner": x**2, "half": 0.5}
    return case_of_pair(gelu_tanh_forward, {"x": x}, dy, numbers, **values)


def terms(v):
    """The signed sums that the gradients are."""
    return {
        "dx": (
            Term("half", "dy/2", v.dy * v.half * np.ones_like(v.x)),
            Term("tanh", "dy/2 * t", v.dy * v.half * v.t),
            Term("linear", "dy * x/2 * (1 - t²) * K", v.dy * v.outer * v.slope * v.k),
            Term(
                "cube", "dy * x/2 * (1 - t²) * K * 3 A x²", v.dy * v.outer * v.slope * v.k * 3 * A * v.inner
            ),
        )
    }


def as_erf(v):
    """The tanh and its slope as the erf form has them."""
    cdf = np.vectorize(math.erf, otypes=[float])(v.x / math.sqrt(2))
    density = np.exp(-v.x * v.x / 2) * math.sqrt(2 / math.pi)
    return v.but(t=cdf, slope=density / v.k, inner=0 * v.x)


VARIANTS = (
    Variant("ERF", "is that of GELU's erf form", as_erf),
    Variant(
        "INNER_DERIVATIVE_MISSING",
        "lacks du/dx, the derivative of what is inside the tanh",
        lambda v: v.but(k=1.0, inner=0 * v.x),
    ),
    Variant("ONE_MINUS_T", "has 1 - t for 1 - t²", lambda v: v.but(slope=1 - v.t)),
    Variant("ONE_PLUS_T_SQUARED", "has 1 + t² for 1 - t²", lambda v: v.but(slope=1 + v.t**2)),
    Variant("T_SQUARED", "has t² for 1 - t²", lambda v: v.but(slope=v.t**2)),
    Variant("TANH_SLOPE_MISSING", "lacks 1 - t², the derivative of the tanh", lambda v: v.but(slope=1.0)),
    Variant("SLOPE_TWICE", "has (1 - t²) twice", lambda v: v.but(slope=v.slope**2)),
    Variant("X_FOR_X_SQUARED", "has x for x² in the derivative of the cube", lambda v: v.but(inner=v.x)),
    Variant("X_CUBED", "has x³ for x² in the derivative of the cube", lambda v: v.but(inner=v.x**3)),
    Variant("X_LEFT_OUT", "lacks the x outside of the tanh: x/2 * dt/dx", lambda v: v.but(outer=0.5)),
)

HINTS = {
    "": (
        "At how many places does x stand in y = x/2 * (1 + tanh(u(x)))?",
        "A product rule outside, then a chain: tanh, and inside it a line and a cube.",
        "dx = dy * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * K * (1 + 3 * A * x**2))",
    ),
    "CUBE": (
        "What is the derivative of x + A x³?",
        "The cube gives 3 A x².",
        "du = K * (1 + 3 * A * x**2)",
    ),
    "INNER": (
        "tanh has an argument that moves with x. By how much?",
        "The chain rule goes on inside: times du/dx.",
        "du = K * (1 + 3 * A * x**2)",
    ),
    "LINEAR": (
        "y is a product. What is the second part of the product rule?",
        "x/2 times the derivative of 1 + t.",
        "+ 0.5 * x * (1 - t**2) * du",
    ),
    "DY_IGNORED": (
        "You have the slope of the function. What makes a gradient of it?",
        "What comes from above multiplies the slope.",
        "dx = dy * slope",
    ),
}

DX = "dx = dy * (0.5 * (1 + t) + 0.5 * x * dt)"
FAULTS = (
    Fault("the slope, without dy", ("GT_DY_IGNORED",), ((DX, "dx = 0.5 * (1 + t) + 0.5 * x * dt"),)),
    Fault(
        "the second half of the product rule forgotten",
        ("GT_LINEAR_TERM_MISSING", "GT_CUBE_TERM_MISSING"),
        ((" + 0.5 * x * dt", ""),),
    ),
    Fault(
        "the first half of the product rule forgotten",
        ("GT_HALF_TERM_MISSING", "GT_TANH_TERM_MISSING"),
        (("0.5 * (1 + t) + ", ""),),
    ),
    Fault("du/dx = 1", ("GT_INNER_DERIVATIVE_MISSING",), (("dt = (1 - t**2) * du", "dt = 1 - t**2"),)),
    Fault("the 3 of the cube lost", ("GT_CUBE_TERM_THIRD",), (("3 * A", "A"),)),
    Fault("the cube's part lost", ("GT_CUBE_TERM_MISSING",), (("K * (1 + 3 * A * x**2)", "K"),)),
    Fault("A lost in the cube's part", ("GT_CUBE_TERM_OVER_A",), (("3 * A * x**2", "3 * x**2"),)),
    Fault(
        "the erf form's gradient (mixed up in karpathy/nanoGPT #2, keras-bert #129)",
        ("GT_ERF",),
        body="""
        cdf = np.array([[0.5 * (1 + math.erf(a / math.sqrt(2))) for a in row] for row in x])
        return dy * (cdf + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi))
        """,
    ),
    Fault("1 - t for 1 - t²", ("GT_ONE_MINUS_T",), (("1 - t**2", "1 - t"),)),
    Fault("1 + t² for 1 - t²", ("GT_ONE_PLUS_T_SQUARED",), (("1 - t**2", "1 + t**2"),)),
    Fault("tanh's derivative forgotten", ("GT_TANH_SLOPE_MISSING",), (("(1 - t**2) * du", "du"),)),
    Fault("tanh's derivative twice", ("GT_SLOPE_TWICE",), (("(1 - t**2) * du", "(1 - t**2) ** 2 * du"),)),
    Fault(
        "K lost",
        ("GT_LINEAR_TERM_OVER_K", "GT_CUBE_TERM_OVER_K"),
        (("K * (1", "1 * (1"),),
    ),
    Fault("x for x² in the cube's part", ("GT_X_FOR_X_SQUARED",), (("x**2)", "x)"),)),
    Fault("x³ for x² in the cube's part", ("GT_X_CUBED",), (("x**2)", "x**3)"),)),
    Fault("the x before dt lost", ("GT_X_LEFT_OUT",), (("0.5 * x * dt", "0.5 * dt"),)),
    Fault("the halves lost", ("GT_DX_TWICE",), ((DX, "dx = dy * (1 + t + x * dt)"),)),
    Fault("1 of 1 + t lost", ("GT_HALF_TERM_MISSING",), (("0.5 * (1 + t)", "0.5 * t"),)),
)

ALTERNATIVES = (
    """
    s = (1 + t) / 2
    return dy * (s + 2 * x * s * (1 - s) * K * (1 + 3 * A * x * x))
    """,
    """
    sech2 = 1 / np.cosh(K * (x + A * x**3)) ** 2
    left = 0.5 * np.tanh(K * (x + A * x**3)) + 0.5
    return dy * left + dy * x * 0.5 * sech2 * (K + 3 * K * A * x**2)
    """,
    """
    dhalf = dy * (1 + t)
    du = dy * 0.5 * x * (1 - t * t)
    dx = 0.5 * dhalf + K * du
    return (dx + K * A * 3 * np.square(x) * du,)
    """,
)

EXERCISE = Exercise(
    name="gelu_tanh",
    prefix="GT",
    solution=gelu_tanh_backward,
    forward=gelu_tanh_forward,
    shown=("A", "K", "gelu_tanh_forward"),
    gradients={"dx": "NF"},
    sizes={"N": 5, "F": 7},
    case=case,
    terms=terms,
    variants=VARIANTS,
    hints=HINTS,
    faults=FAULTS,
    alternatives=ALTERNATIVES,
    constants={"A": ("0.044715", "0.05", "0.035"), "K": ("math.sqrt(2 / math.pi)", "0.75", "0.85")},
    ops=("gelu_tanh",),
)
