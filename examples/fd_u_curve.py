# %% [markdown]
"""Which step is best for a finite difference, and how exact is the gradient then?

A central difference errs twice. With f(h) = loss(θ + h v), v of length 1,

    (f(h) − f(−h)) / 2h  =  f′  +  h²/6 f‴  +  rounding of f / h

The first error grows as h², the second falls as 1/h: the sum is a U. It is least where both are of one
size, near h = (3 ε |f| / |f‴|)^⅓ with ε of the dtype. The complex step Im f(ih) / h subtracts nothing,
so it has no second error, and h may be 10⁻³⁰.
"""

# %%
import numpy as np
import picture

import numgpt
from numgpt import calculus

show = picture.script(__doc__)  # --plot FILE draws
numgpt.use("reference")  # the arrays are small: plain NumPy is as fast, and compiles nothing
numgpt.set_threads(1)  # a second one gains nothing

config = numgpt.Config(vocab_size=65, block_size=16, n_layer=3, n_head=4, n_embd=32)
model = numgpt.GPT(config, seed=0, dtype="float64")
rng = np.random.default_rng(0)
tokens, targets = rng.integers(0, 65, (2, 4, 16))
v = rng.standard_normal(model.n_params)
v /= np.linalg.norm(v)

loss, grads = model.loss_and_grads(tokens, targets)
slope = grads.flat @ v


def f(h, dtype="float64"):
    """The loss, computed in a dtype, with all parameters moved by h along v."""
    moved = model.astype(dtype)
    moved.params.flat += (h * v).astype(dtype)
    return moved.loss(tokens, targets)


complex_step = f(1e-30j, "complex128").imag / 1e-30
print(f"by hand       {slope:.16f}")
print(f"complex step  {complex_step:.16f}   relative difference {abs(slope / complex_step - 1):.1e}")
assert abs(slope / complex_step - 1) < 1e-12

# %% [markdown]
"""The third derivative f‴ is the slope of the curvature ⟨v, H v⟩, which the calculus room gives
exactly. So the best step can be said before anything is tried."""


# %%
def curvature(h):
    """⟨v, H v⟩ at θ + h v."""
    moved = model.astype("float64")
    moved.params.flat += h * v
    return v @ calculus.hvp(moved, tokens, targets, v).flat


third = (curvature(1e-3) - curvature(-1e-3)) / 2e-3
steps = 10.0 ** np.arange(-11, 1, 0.5)
errors = {}
for dtype in ("float64", "float32"):
    central = np.array([(f(h, dtype) - f(-h, dtype)) / (2 * h) for h in steps])
    errors[dtype] = abs(central / slope - 1)
print(f"\n     h  {'float64':>9}  {'float32':>9}  relative error of the central difference")
for h, double, single in zip(steps[::2], errors["float64"][::2], errors["float32"][::2]):
    print(f"{h:6.0e}  {double:9.1e}  {single:9.1e}")

# %%
best = {}
for dtype, error in errors.items():
    epsilon = np.finfo(dtype).eps
    predicted = (3 * epsilon * loss / abs(third)) ** (1 / 3)
    best[dtype] = steps[error.argmin()]
    print(f"{dtype}: best h predicted {predicted:.0e}, measured {best[dtype]:.0e}, error {error.min():.0e}")
    # Rounding is random: its size is known to a factor of ten at best, of which h feels the cube root; and a
    # single error may be small by luck. So one and a half decades.
    assert abs(np.log10(best[dtype] / predicted)) < 1.5
    # Right of the bottom h² f‴/6 is left: at ten times the best h, rounding is 1/2000 of it.
    right = 10 * predicted
    bent = abs(f(right, dtype) - f(-right, dtype) - 2 * right * slope) / (2 * right)
    assert abs(bent / (right**2 * abs(third) / 6) - 1) < 0.2
# The least error goes as ε^⅔, which is 10⁻¹⁰ in float64 and 10⁻⁵ in float32; by hand it is ε.
assert 1e-13 < errors["float64"].min() < 1e-7
assert errors["float32"].min() > 100 * errors["float64"].min()


# %%
def draw(figure):
    """The U of either dtype, and the two lines that it is made of."""
    ax = figure.subplots()
    for dtype, colour in (("float64", "#1f4e8c"), ("float32", "#d55e00")):
        ax.loglog(steps, errors[dtype], "o-", color=colour, markersize=4, label=dtype)
        ax.loglog(steps, np.finfo(dtype).eps * loss / abs(slope) / steps, ":", color=colour)
    ax.loglog(steps, steps**2 * abs(third / slope) / 6, "--", color="#707070", label="h² f‴/6")
    ax.set(xlabel="h", ylabel="relative error", ylim=(1e-11, 1e2), title="a central difference errs twice")
    ax.legend()


show(draw)
print("The gradient by hand is exact to rounding; a finite difference has a best step, and errs even there.")
