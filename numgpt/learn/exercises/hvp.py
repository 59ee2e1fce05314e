"""A Hessian-vector product: how the gradient moves, without the Hessian.

The Hessian H of a loss has a row for each parameter: it is too large to be written down. Its product with one
direction V is the derivative of the gradient along V, and costs about as much as a gradient: follow each line
of the gradient, and note by how much its value moves when W moves along V.

Shapes: x (N, C) · W, V, HV (C, F) · u (F) · target, error (N) · a (N, F)
"""

import numpy as np

from ..exercise import Case, Exercise, Fault, Invariant, Probe, Term, Values, Variant


def gradient(W, x, u, target):
    """(loss, dW) of loss = sum(error**2) / (2 N), where error = a @ u - target and a = tanh(x @ W)."""
    N = len(x)
    a = np.tanh(x @ W)
    error = a @ u - target
    da = error[:, None] * u
    dh = da * (1 - a * a)
    return (error * error).sum() / (2 * N), x.T @ dh / N


def hessian_times(W, V, x, u, target):
    """HV, the derivative of the gradient dW at W along V: (dW at W + h V - dW at W) / h, as h goes to 0.

    Write r… for the derivative along V of each value of the gradient, in its order:

        h = x @ W                    rh     = x @ V                         because W moves by V
        a = tanh(h)                  ra     = (1 - a * a) * rh              because tanh' is 1 - tanh²
        error = a @ u - target       rerror = …
        da = error * u               rda    = …                             u is a constant
        dh = da * (1 - a * a)        rdh    = … + …                         because dh is a product
        dW = x.T @ dh / N            HV     = x.T @ rdh / N

    In dh both factors move. What is the derivative of 1 - a * a?
    """
    # yours
    N = len(x)
    a = np.tanh(x @ W)
    error = a @ u - target
    da = error[:, None] * u
    ra = (1 - a * a) * (x @ V)
    rda = (ra @ u)[:, None] * u
    rdh = rda * (1 - a * a) + da * (-2 * a * ra)
    return x.T @ rdh / N


def case(rng, N, C, F):
    """Random arrays of these sizes, and what the terms are made of."""
    x = rng.standard_normal((N, C))
    W, V = rng.standard_normal((2, C, F)) / 2
    u, target = rng.standard_normal(F), rng.standard_normal(N)
    a = np.tanh(x @ W)
    values = Values(
        x=x,
        u=u,
        a=a,
        V=V,
        W=W,
        slope=1 - a * a,
        slope_of_ra=1 - a * a,
        outer_slope=1 - a * a,
        direction=V,
        error=a @ u - target,
        curve=2 * a,
        target=target,
        mix=lambda ra: (ra @ u)[:, None] * u,
    )

    def loss(gradient, inputs):  # its derivative with respect to inputs["HV"], which is W, is H V
        return float((V * gradient(inputs["HV"], x, u, target)[1]).sum())

    return Case((W, V, x, u, target), values, {"HV": W}, loss, {"N": N, "C": C, "F": F})


def terms(v):
    """The signed sums that the gradients are."""
    N = len(v.x)
    ra = v.slope_of_ra * (v.x @ v.direction)
    through_error = v.mix(ra) * v.outer_slope
    through_slope = v.error[:, None] * v.u * v.curve * ra
    return {
        "HV": (
            Term("error", "x.T @ (rda * (1 - a²)) / N", v.x.T @ through_error / N),
            Term("slope", "x.T @ (da * 2 * a * ra) / N", v.x.T @ through_slope / N, -1),
        )
    }


def ask_for_symmetry(function):
    """Whether the products are those of a symmetric matrix."""
    rng = np.random.default_rng(1)
    x, (W, V, other) = rng.standard_normal((5, 2)), rng.standard_normal((3, 2, 3))
    u, target = rng.standard_normal(3), rng.standard_normal(5)
    one, two = (np.asarray(function(W, d, x, u, target)) for d in (V, other))
    off = (other * one).sum() - (V * two).sum()
    if abs(off) < 1e-9:
        return ""
    return f"H is symmetric, so sum(U * HV) is sum(V * HU), but yours differ by {off:.3g}"


VARIANTS = (
    Variant("W_FOR_V", "uses W as the direction, where V belongs", lambda v: v.but(direction=v.W)),
    Variant(
        "SLOPE_MISSING_IN_RA",
        "lacks the factor 1 - a² in ra: a moves by tanh' times rh",
        lambda v: v.but(slope_of_ra=1.0),
    ),
    Variant(
        "A_FOR_SLOPE",
        "has ra = a * rh, where tanh' = 1 - a² belongs",
        lambda v: v.but(slope_of_ra=v.a),
    ),
    Variant(
        "SLOPE_MISSING_IN_RDH",
        "lacks the factor 1 - a² beside rda",
        lambda v: v.but(outer_slope=1.0),
    ),
    Variant(
        "OUTPUTS_NOT_MIXED",
        "takes the derivative of error for each of the F channels alone: error sums over them all",
        lambda v: v.but(mix=lambda ra: ra * v.u * v.u),
    ),
    Variant(
        "U_MISSING",
        "lacks the factor u in rda",
        lambda v: v.but(mix=lambda ra: (ra @ v.u)[:, None] * np.ones_like(v.u)),
    ),
    Variant(
        "TARGET_IN_RERROR",
        "takes target off rerror, but target does not move",
        lambda v: v.but(mix=lambda ra: (ra @ v.u - v.target)[:, None] * v.u),
    ),
    Variant(
        "SLOPE_OF_SLOPE_WITHOUT_RA",
        "has -2 a for the derivative of 1 - a², without ra",
        lambda v: v.but(curve=v.curve / (v.slope_of_ra * (v.x @ v.direction))),
    ),
    Variant(
        "SLOPE_OF_SLOPE_WITHOUT_A",
        "has -2 ra for the derivative of 1 - a², without a",
        lambda v: v.but(curve=2.0),
    ),
    Variant(
        "GRADIENT_ITSELF",
        "is the gradient dW: how it moves along V is what is asked",
        lambda v: v.but(mix=lambda ra: v.error[:, None] * v.u, curve=0.0),
    ),
    Variant(
        "PREDICTION_FOR_ERROR",
        "has a @ u for error in da: target is not taken off",
        lambda v: v.but(error=v.a @ v.u),
    ),
)


def bend(HV, v):
    """sum(V * HV) less the loss's second difference along V, or 0 where that is small."""
    losses = [gradient(v.W + step * v.V, v.x, v.u, v.target)[0] for step in (1e-3, 0, -1e-3)]
    wanted = (losses[0] - 2 * losses[1] + losses[2]) / 1e-6
    off = np.asarray((HV * v.V).sum() - wanted)
    return np.where(abs(off) > 1e-3 * abs(wanted), off, 0)


INVARIANTS = (
    Invariant(
        "HV",
        "Along W + h V the loss bends by h²/2 sum(V * HV): its second difference says how much that is.",
        "has a sum(V * HV) that is off by",
        bend,
    ),
)

HINTS = {
    "": (
        "Which values of the gradient depend on W, and by how much does each move when W moves along V?",
        "dh is a product of two factors that both move: rdh has two terms.",
        "rdh = rda * (1 - a * a) + da * (-2 * a * ra), HV = x.T @ rdh / N",
    ),
    "ERROR_TERM": (
        "By how much does error move, when a moves by ra?",
        "rerror = ra @ u, and rda = rerror * u: this part is that of Gauss and Newton.",
        "rda = (ra @ u)[:, None] * u",
    ),
    "SLOPE_TERM": (
        "If error stood still, would dh stand still when a moves?",
        "The slope 1 - a² moves too, by -2 a ra: without it HV is that of Gauss and Newton.",
        "da * (-2 * a * ra)",
    ),
    "IN_RA": (
        "How much does tanh(h) move where tanh is flat?",
        "ra is rh times tanh', which is 1 - a².",
        "ra = (1 - a * a) * (x @ V)",
    ),
    "INEXACT": (
        "How many digits does a difference of two gradients have?",
        "The derivative along V can be written down, line by line, and then has all digits.",
        "rdh = rda * (1 - a * a) + da * (-2 * a * ra)",
    ),
    "SLOPE_OF": (
        "What is the derivative of 1 - a * a, when a moves by ra?",
        "Of a * a it is 2 * a * ra.",
        "da * (-2 * a * ra)",
    ),
    "W_FOR": (
        "In which direction does W move?",
        "Along V: h = x @ W moves by x @ V.",
        "rh = x @ V",
    ),
    "TARGET": (
        "Does target depend on W?",
        "What is constant drops out: rerror has a's part alone.",
        "rerror = ra @ u",
    ),
}

CURVED = " + da * (-2 * a * ra)"
FAULTS = (
    Fault(
        "the slope taken as a constant: Gauss and Newton's product",
        ("HVP_SLOPE_TERM_MISSING",),
        ((CURVED, ""),),
    ),
    Fault(
        "the error taken as a constant",
        ("HVP_ERROR_TERM_MISSING",),
        (("rda * (1 - a * a)" + CURVED, CURVED[3:]),),
    ),
    Fault("the slope's term added", ("HVP_SLOPE_TERM_SIGN",), (("-2 * a * ra", "2 * a * ra"),)),
    Fault("the 2 lost", ("HVP_SLOPE_TERM_HALF",), (("-2 * a * ra", "-a * ra"),)),
    Fault("tanh' left out of ra", ("HVP_SLOPE_MISSING_IN_RA",), (("ra = (1 - a * a) * (x", "ra = (x"),)),
    Fault("ra = a * rh", ("HVP_A_FOR_SLOPE",), (("ra = (1 - a * a) * (x", "ra = a * (x"),)),
    Fault("the slope left out beside rda", ("HVP_SLOPE_MISSING_IN_RDH",), (("rda * (1 - a * a)", "rda"),)),
    Fault("W for V", ("HVP_W_FOR_V",), (("(x @ V)", "(x @ W)"),)),
    Fault("not divided by N", ("HVP_HV_TIMES_N",), (("rdh / N", "rdh"),)),
    Fault("divided by N twice", ("HVP_HV_OVER_N",), (("rdh / N", "rdh / N / N"),)),
    Fault("each channel alone", ("HVP_OUTPUTS_NOT_MIXED",), (("(ra @ u)[:, None] * u", "ra * u * u"),)),
    Fault("u left out of rda", ("HVP_U_MISSING",), (("(ra @ u)[:, None] * u", "(ra @ u)[:, None]"),)),
    Fault("target taken off rerror", ("HVP_TARGET_IN_RERROR",), (("(ra @ u)[", "(ra @ u - target)["),)),
    Fault(
        "the derivative of 1 - a² without ra",
        ("HVP_SLOPE_OF_SLOPE_WITHOUT_RA",),
        (("-2 * a * ra", "-2 * a"),),
    ),
    Fault(
        "the derivative of 1 - a² without a", ("HVP_SLOPE_OF_SLOPE_WITHOUT_A",), (("-2 * a * ra", "-2 * ra"),)
    ),
    Fault("the prediction for the error", ("HVP_PREDICTION_FOR_ERROR",), (("a @ u - target", "a @ u"),)),
    Fault(
        "the gradient itself", ("HVP_GRADIENT_ITSELF",), (("x.T @ rdh / N", "x.T @ (da * (1 - a * a)) / N"),)
    ),
    Fault(
        "by differences of the gradient, with few digits",
        ("HVP_HV_INEXACT",),
        (
            (
                "x.T @ rdh / N",
                "(gradient(W + 1e-5 * V, x, u, target)[1] - gradient(W - 1e-5 * V, x, u, target)[1]) / 2e-5",
            ),
        ),
    ),
    Fault(
        "the loss's second derivative along V, a number",
        ("HVP_HV_REDUCED",),
        (("return x.T @ rdh / N", "return float((V * (x.T @ rdh / N)).sum())"),),
    ),
    Fault("W moved in place", ("ARGUMENT_CHANGED",), (("N = len(x)", "N = len(x)\nW += 1e-9 * V"),)),
)

ALTERNATIVES = (
    """
    h = 1e-30
    z = W + 1j * h * V
    a = np.tanh(x @ z)
    dh = (a @ u - target)[:, None] * u * (1 - a * a)
    return (x.T @ dh).imag / len(x) / h
    """,
    """
    N, C = x.shape
    F = len(u)
    a = np.tanh(x @ W)
    s = 1 - a * a
    jacobian = np.einsum("nc,nf->ncf", x, s * u).reshape(N, C * F)
    hessian = jacobian.T @ jacobian
    curved = -2 * a * s * u * (a @ u - target)[:, None]
    for f in range(F):
        block = np.einsum("n,nc,nk->ck", curved[:, f], x, x)
        places = np.arange(C) * F + f
        hessian[np.ix_(places, places)] += block
    return (hessian @ V.reshape(-1)).reshape(C, F) / N
    """,
    """
    a = np.tanh(x @ W)
    s = 1 - a**2
    ra = s * (x @ V)
    rerror = np.einsum("nf,f->n", ra, u)
    error = np.einsum("nf,f->n", a, u) - target
    rows = np.outer(rerror, u) * s - 2 * np.outer(error, u) * a * ra
    return sum(np.outer(x[n], rows[n]) for n in range(len(x))) / len(x)
    """,
)

EXERCISE = Exercise(
    name="hvp",
    prefix="HVP",
    solution=hessian_times,
    forward=gradient,
    shown=("gradient",),
    gradients={"HV": "CF"},
    sizes={"N": 5, "C": 3, "F": 7},
    case=case,
    terms=terms,
    variants=VARIANTS,
    invariants=INVARIANTS,
    probes=(Probe("SYMMETRY", ask_for_symmetry),),
    hints=HINTS,
    faults=FAULTS,
    alternatives=ALTERNATIVES,
    names={"u": ("u", "readout"), "x": ("x", "features")},
)
