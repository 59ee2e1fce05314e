"""The numerical gradient.

Before a gradient is derived, one can be measured: move one number of x a little up and a little down, and
see by how much f moves. It is slow, and its digits are few, but it needs no derivation. So it is the witness
against which all later exercises are checked.

Shapes: x and the gradient have the same shape, here (R, C); f(x) is a number.
"""

import numpy as np

from ..exercise import Case, Exercise, Fault, Probe, Term, Values, Variant

H = 1e-5


def numerical_grad(f, x, h=H):
    """The gradient of f at x by central differences: grad has x's shape, x stays as it is.

    For one number x_i, all others held (Taylor):

        f(x_i + h) = f + h f' + h²/2 f'' + h³/6 f''' + …
        f(x_i - h) = f - h f' + h²/2 f'' - h³/6 f''' + …

    Subtract the second line from the first: f and f'' drop out. What must the difference be divided by?
    The error that stays is h²/6 f'''. With one side alone it is h/2 f'', which is far larger.

    x may hold integers, or float32: x + h would be rounded. Work on a copy in float64.
    """
    # yours
    x = np.array(x, dtype=np.float64)
    grad = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        old = x[index]
        x[index] = old + h
        above = f(x)
        x[index] = old - h
        below = f(x)
        x[index] = old
        grad[index] = (above - below) / (2 * h)
    return grad


def case(rng, R, C):
    """All numbers are multiples of 1/16, so that sums and products are exact, and h is large."""
    x, a, b, c = rng.integers(-16, 17, (4, R, C)) / 16
    k, h = 0.5, 0.1875

    def f(z):
        return float((a * z + b * z * z + c * z * z * z).sum() + k * z.sum() ** 2)

    values = Values(x=x, a=a, b=b, c=c, k=k, h=h, at=lambda z, i: z, along=lambda d: d)
    return Case((f, x, h), values, numbers={"2h": 2 * h, "h": h})


def terms(v):
    """The signed sums that the gradients are."""
    first, second, third = (np.empty_like(v.x) for _ in range(3))
    for i in np.ndindex(v.x.shape):
        z = v.at(v.x.copy(), i)
        first[i] = v.a[i] + 2 * v.b[i] * z[i] + 3 * v.c[i] * z[i] ** 2 + 2 * v.k * z.sum()
        second[i] = 2 * v.b[i] + 6 * v.c[i] * z[i] + 2 * v.k
        third[i] = 6 * v.c[i]
    ones = np.ones_like(v.x)
    return {
        "grad": (
            Term("derivative", "f'(x)", v.along(first) * ones),
            Term("second", "h/2 f''(x)", v.h / 2 * second, 0),
            Term("third", "h²/6 f'''(x)", v.h**2 / 6 * v.along(third) * ones),
        )
    }


def moved(by):
    """x as it is when its i-th number is differentiated, where those before it were left moved."""

    def at(z, i):
        n = int(np.ravel_multi_index(i, z.shape))
        z.reshape(-1)[:n] += by
        return z

    return at


VARIANTS = (
    Variant(
        "NOT_RESTORED",
        "is taken at a point that moves: each number of x stays at x - h when the next is differentiated",
        lambda v: v.but(at=moved(-v.h)),
    ),
    Variant(
        "NOT_RESTORED_ABOVE",
        "is taken at a point that moves: each number of x stays at x + h when the next is differentiated",
        lambda v: v.but(at=moved(v.h)),
    ),
    Variant(
        "ALL_AT_ONCE",
        "moves all numbers of x at once: each of its entries is the sum of the gradient",
        lambda v: v.but(along=lambda d: d.sum()),
    ),
    Variant(
        "ROWS_AT_ONCE",
        "moves a whole row of x at once: its entries are sums over rows",
        lambda v: v.but(along=lambda d: d.sum(-1, keepdims=True)),
    ),
    Variant(
        "COLUMNS_AT_ONCE",
        "moves a whole column of x at once: its entries are sums over columns",
        lambda v: v.but(along=lambda d: d.sum(0, keepdims=True)),
    ),
)


def ask_for_a_good_step(function):
    """Whether the default h gives at least seven digits of the gradient of exp."""
    x = np.linspace(-1, 1, 7)
    error = abs(function(lambda z: float(np.exp(z).sum()), x) - np.exp(x)).max()
    if error < 1e-7:
        return ""
    rough = np.exp(x) - function(lambda z: float(np.exp(z).sum()), x)
    is_smooth = abs(np.diff(np.sign(rough))).max() == 0
    if is_smooth and error > 1e-5:
        why = "h is too large: h²/6 f''' is not small"
    else:
        why = "h is too small: f(x + h) and f(x - h) agree in most of their 16 digits, and the rest is noise"
    return f"with its own h the gradient of exp is off by {error:.1g}: {why}"


def ask_about_integers(function):
    """Whether integers are copied as floats."""
    x = np.array([[1, 2], [3, 4]])
    got = np.asarray(function(lambda z: float((z * z).sum()), x), np.float64)
    if np.allclose(got, 2 * x, atol=1e-6):
        return ""
    return f"of integers 1, 2, 3, 4 the gradient of sum(x²) is {got.ravel()}, expected 2 4 6 8: copy as float"


def ask_about_float32(function):
    """Whether float32 is copied as float64."""
    x = np.linspace(0.1, 1, 7, dtype=np.float32)
    got = np.asarray(function(lambda z: float(np.exp(z.astype(np.float64)).sum()), x), np.float64)
    error = abs(got - np.exp(x.astype(np.float64))).max()
    if error < 1e-6:
        return ""
    return f"of a float32 x the gradient of exp is off by {error:.1g}: x + h is rounded, so copy x as float64"


HINTS = {
    "": (
        "Which f(x) do you need for one number of the gradient, and what must x be afterwards?",
        "Two values: f with x[i] + h, and f with x[i] - h. Then x[i] goes back to what it was.",
        "grad[i] = (f(x with x[i] + h) - f(x with x[i] - h)) / (2 * h), for each i of np.ndindex(x.shape)",
    ),
    "SECOND_TERM": (
        "What is left of f'' when the two Taylor lines are subtracted, and what when only one is used?",
        "You compare x + h with x, or x - h with x: take both sides.",
        "(f(x + h) - f(x - h)) / (2 * h)",
    ),
    "RESTORED": (
        "Where is x when the second number is differentiated?",
        "Put back what you changed, before the loop goes on.",
        "old = x[i] before, x[i] = old after",
    ),
    "AT_ONCE": (
        "How many numbers of x move between your two values of f?",
        "One number alone may move.",
        "for index in np.ndindex(x.shape): x[index] = …",
    ),
    "STEP": (
        "f has 16 digits. How many are left when two values that agree in 12 are subtracted?",
        "The error has two parts, about h² and about 1e-16 / h. Where are they equal?",
        "h = 1e-5",
    ),
}

COPIES = """
x = np.array(x, dtype=np.float64)
grad = np.zeros(x.size)
flat = x.flatten()
for i in range(x.size):
    flat[i] += h
    above = f(x)
    flat[i] -= 2 * h
    below = f(x)
    flat[i] += h
    grad[i] = (above - below) / (2 * h)
return grad.reshape(x.shape)
"""
AT_ONCE = """
x = np.array(x, dtype=np.float64)
return np.ones(x.shape) * ((f(x + h) - f(x - h)) / (2 * h))
"""
LEFT_ABOVE = """
x = np.array(x, dtype=np.float64)
grad = np.zeros_like(x)
for i in np.ndindex(x.shape):
    x[i] -= h
    below = f(x)
    x[i] += 2 * h
    above = f(x)
    grad[i] = (above - below) / (2 * h)
return grad
"""
FAULTS = (
    Fault(
        "one-sided, upwards",
        ("NG_SECOND_TERM_EXTRA",),
        (("x[index] = old - h", "x[index] = old"), ("/ (2 * h)", "/ h")),
    ),
    Fault(
        "one-sided, downwards",
        ("NG_SECOND_TERM_EXTRA",),
        (("x[index] = old + h", "x[index] = old"), ("/ (2 * h)", "/ h")),
    ),
    Fault("divided by h, not by 2h", ("NG_GRAD_TWICE",), (("/ (2 * h)", "/ h"),)),
    Fault("not divided at all", ("NG_GRAD_TIMES_2H",), ((" / (2 * h)", ""),)),
    Fault("brackets: (above - below) / 2 * h", ("NG_GRAD_TIMES_H_SQUARED",), (("/ (2 * h)", "/ 2 * h"),)),
    Fault("below minus above", ("NG_GRAD_SIGN",), (("above - below", "below - above"),)),
    Fault(
        "x not restored",
        ("NG_NOT_RESTORED",),
        (("x[index] = old\n", "pass\n"),),
    ),
    Fault("x left at x + h", ("NG_NOT_RESTORED_ABOVE",), body=LEFT_ABOVE),
    Fault(
        "the caller's x is used, and not restored",
        ("ARGUMENT_CHANGED",),
        (("x = np.array(x, dtype=np.float64)", "pass"), ("x[index] = old\n", "pass\n")),
    ),
    Fault(
        "integers are not copied as floats, so x + h is rounded",
        ("NG_INTEGERS",),
        (("np.array(x, dtype=np.float64)", "x.copy()"), ("np.zeros_like(x)", "np.zeros(x.shape)")),
    ),
    Fault(
        "float32 is kept, in which x + h is rounded",
        ("NG_FLOAT32",),
        (
            ("dtype=np.float64", "dtype=x.dtype if x.dtype.kind == 'f' else float"),
            ("zeros_like(x)", "zeros(x.shape)"),
        ),
    ),
    Fault("the gradient in float32", ("DTYPE",), (("zeros_like(x)", "zeros(x.shape, np.float32)"),)),
    Fault(
        "a default step of 1e-12",
        ("NG_STEP",),
        (("old = x[index]", "old, h = x[index], h if h > 1e-3 else 1e-12"),),
    ),
    Fault("h = 1e-5, whatever is asked for", ("NG_THIRD_TERM_MISSING",), (("old = ", "h = 1e-5; old = "),)),
    Fault("the loop moves a copy, of which f knows nothing", ("NG_GRAD_ZERO",), body=COPIES),
    Fault("all numbers moved at once", ("NG_ALL_AT_ONCE",), body=AT_ONCE),
    Fault(
        "a loop over rows: for i in range(len(x))",
        ("NG_ROWS_AT_ONCE",),
        (("np.ndindex(x.shape)", "range(len(x))"), ("old = x[index]", "old = x[index].copy()")),
    ),
)

ALTERNATIVES = (
    """
    x = np.array(x, dtype=float)
    grad = np.empty(x.size)
    for i, step in enumerate(np.eye(x.size) * h):
        step = step.reshape(x.shape)
        grad[i] = (f(x + step) - f(x - step)) / 2 / h
    return grad.reshape(x.shape)
    """,
    """
    x = x.astype(float)
    grad = np.zeros(x.shape)
    places = np.nditer(x, flags=["multi_index"])
    for _ in places:
        i = places.multi_index
        x[i] += h
        up = f(x)
        x[i] -= 2 * h
        down = f(x)
        x[i] += h
        grad[i] = 0.5 * (up - down) / h
    return grad
    """,
    """
    x = np.array(x, dtype=np.float64)
    flat = x.reshape(-1)

    def slope(i):
        old, values = flat[i], []
        for side in (1, -1):
            flat[i] = old + side * h
            values.append(f(x))
        flat[i] = old
        return (values[0] - values[1]) / (h + h)

    return np.array([slope(i) for i in range(flat.size)]).reshape(x.shape)
    """,
)

EXERCISE = Exercise(
    name="numerical_grad",
    prefix="NG",
    solution=numerical_grad,
    shown=("H",),
    gradients={"grad": "RC"},
    sizes={"R": 3, "C": 5},
    case=case,
    terms=terms,
    variants=VARIANTS,
    probes=(
        Probe("STEP", ask_for_a_good_step),
        Probe("INTEGERS", ask_about_integers),
        Probe("FLOAT32", ask_about_float32),
    ),
    hints=HINTS,
    faults=FAULTS,
    alternatives=ALTERNATIVES,
    says={
        "NG_SECOND_TERM_EXTRA": "grad has the error of a one-sided difference, h/2 f''(x): take both sides",
        "NG_THIRD_TERM_MISSING": "the error h²/6 f''' is that of another h: use the h that is given",
        "NG_THIRD_TERM_SCALED": "the error h²/6 f''' is that of another h: use the h that is given",
        "NG_GRAD_ZERO": "grad is 0: f does not see what you change. x.flatten() and x.copy() are copies",
    },
    constants={"H": ("1e-5", "3e-6", "2e-5")},
)
