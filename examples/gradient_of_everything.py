# %% [markdown]
"""How exact is every gradient of a model, op by op, in units of the last place?

One forward and backward files the gradient of every value and every parameter by name. Each is held to
three others: the complex step, which is exact to rounding; finite differences, which are not; and
PyTorch's autograd where it is installed. What error is left is counted against the same gradients in
extended precision, in units of the last place (ulp) of the largest entry.
"""

# %%
import numpy as np
import picture

import numgpt

show = picture.script(__doc__)  # --plot FILE draws
numgpt.use("reference")  # the arrays are small: plain NumPy is as fast, and compiles nothing
numgpt.set_threads(1)  # a second one gains nothing

config = numgpt.Config(vocab_size=13, block_size=5, n_layer=2, n_head=2, n_embd=14)
model = numgpt.GPT(config, seed=0, dtype="float64")
rng = np.random.default_rng(0)
model.params.flat += 0.3 * rng.standard_normal(model.n_params)  # as if it were trained: no bias is 0
tokens, targets = rng.integers(0, 13, (2, 3, 5))
record = model.record(tokens, targets)
print(f"{len(record.grad)} gradients of {model.n_params:,} parameters and {len(record.value)} values")

# %% [markdown]
"""Each gradient is tried along one random direction w: ⟨gradient, w⟩ = Im loss(value + ih w)/h."""

# %%
wide = model.astype("complex128")
h = 1e-30


def moved(name, w):
    """The loss where the value of that name, or the parameter, is moved by ih w."""
    if name in model.params:
        other = wide.astype("complex128")
        other.params[name] += 1j * h * w
        return other.loss(tokens, targets)
    shift = {name: (lambda a: a + 1j * h * w, lambda dy: dy)}  # a shift, and its transpose
    return wide.record(tokens, targets, edit=shift, keep=["loss"]).value["loss"]


apart = {}
for name, gradient in record.grad.items():
    w = rng.standard_normal(gradient.shape)
    apart[name] = abs((gradient * w).sum() - moved(name, w).imag / h) / np.linalg.norm(gradient * w)
worst = max(apart, key=apart.get)
print(f"complex step: none differs by more than {apart[worst]:.0e} of its size ({worst})")
# A number of some 60 operations one after the other, sums of up to 56 terms: 1e-13 is 450 ulp, far above.
assert apart[worst] < 1e-13

trace = record.trace(differences=3)
by_differences = max(d.distance for d in trace.differences)
print(f"finite differences: none of {len(trace.differences)} by more than {by_differences:.0e}")
assert 1e-13 < by_differences < 1e-5

# %% [markdown]
"""Now the errors themselves, against 64 bits of mantissa instead of 53."""

# %%
exact = model.astype("longdouble").record(tokens, targets)


def ulps(name, grads):
    """The largest error of a gradient, in ulp of its largest entry."""
    truth = exact.grad[name]
    return float(abs(grads[name] - truth).max() / np.spacing(abs(truth.astype("float64")).max()))


try:
    theirs = numgpt.parity.reference(record)
except numgpt.InputError as error:
    theirs = None
    print(f"{error}: the column of PyTorch is left out")

rows = {}
for name, step in trace.steps.items():
    for gradient in (name, *step.parameters):
        if gradient in exact.grad:
            rows.setdefault(step.op, []).append(gradient)
print(f"\n{'op':18} gradients  ulp, ours  ulp, PyTorch")
ours_of, theirs_of = {}, {}
for op, names in rows.items():
    ours_of[op] = max(ulps(name, record.grad) for name in names)
    known = [name for name in names if theirs and name in theirs.grad]
    theirs_of[op] = max((ulps(name, theirs.grad) for name in known), default=np.nan)
    theirs_shown = f"{theirs_of[op]:12.1f}" if known else f"{'–':>12}"
    print(f"{op:18} {len(names):9}  {ours_of[op]:9.1f}  {theirs_shown}")
longest = max(ours_of.values())


# %%
def draw(figure):
    """Ulp of the gradients of each op, ours beside PyTorch's."""
    ax = figure.subplots()
    at = np.arange(len(rows))
    ax.barh(at - 0.2, list(ours_of.values()), 0.4, label="numgpt", color="#1f4e8c")
    ax.barh(at + 0.2, np.nan_to_num(list(theirs_of.values())), 0.4, label="PyTorch", color="#d55e00")
    ax.set_yticks(at, list(rows))
    ax.invert_yaxis()
    ax.set(xlabel="largest error, ulp of the largest entry", title="how exact is the gradient of everything?")
    ax.legend()


show(draw)
if np.finfo("longdouble").eps < np.finfo("float64").eps:  # else the truth is no wider than what it judges
    assert 0 < longest < 450
print(f"Every gradient is exact to rounding: {longest:.0f} ulp at most.")
