# %% [markdown]
"""A backward costs twice its forward: for which ops is that so, and what do bytes and saved arrays say?

A product y = x W has two backwards of its size, dx = dy Wᵀ and dW = xᵀ dy: hence the rule. Here nothing
is assumed. An array that counts what is done to it is sent through every op of a model, forward and
backward.
"""

# %%
import numpy as np
import picture

import numgpt
from numgpt import Record, ops
from numgpt.layers import transformer
from numgpt.model.accounting import flops_per_token

show = picture.script(__doc__)  # --plot FILE draws
numgpt.use("reference")  # the arrays are small: plain NumPy is as fast, and compiles nothing
numgpt.set_threads(1)  # a second one gains nothing


class Counted(np.ndarray):
    """An array whose operations are counted: those of products, and all others (one for each entry)."""

    products = others = 0

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        """Do what NumPy does, and count it."""
        plain = [np.asarray(x) if isinstance(x, np.ndarray) else x for x in inputs]
        if out is not None:
            options["out"] = tuple(np.asarray(x) for x in out)
        result = getattr(ufunc, method)(*plain, **options)
        if ufunc is np.matmul:
            Counted.products += 2 * result.size * plain[0].shape[-1]
        else:
            Counted.others += max(np.size(result), np.size(plain[0]))
        return counted(result) if out is None else out[0]

    def __array_function__(self, func, types, args, kwargs):
        """What NumPy makes of such arrays is such an array again."""
        return counted(super().__array_function__(func, types, args, kwargs))


def counted(x):
    """The same array, counted."""
    return x.view(Counted) if isinstance(x, np.ndarray) else x


def count(function, *arguments, **options):
    """(what the function gives, the FLOPs of its products, its other operations)"""
    Counted.products = Counted.others = 0
    result = function(*arguments, **options)
    return result, Counted.products, Counted.others


# %% [markdown]
"""Op by op, in a small GPT. FLOPs per byte say what bounds an op: a processor does tens of FLOPs in the
time that a byte takes from memory, so what has less than that waits for memory, and its FLOPs do not
matter."""

# %%
B = 4
sizes = {"vocab_size": 65, "n_layer": 2, "n_head": 4, "n_embd": 64}
config = numgpt.Config(**sizes, block_size=64)
model = numgpt.GPT(config, seed=0)
tokens, targets = np.random.default_rng(0).integers(0, 65, (2, B, 64))
record = model.record(tokens, targets)
trace = record.trace()
held = {**trace.value, **trace.ids}
print("                     products, FLOPs   backward  other operations   backward  FLOPs per  bytes saved")
print("op                           forward  / forward           forward  / forward       byte    per token")
table = {}
for name, step in trace.steps.items():
    op = record.ops[name]
    if step.cost is None or op.name in table:
        continue
    arrays = [counted(held[n]) for n in (*step.reads, *step.parameters)]
    (y, saved), products, others = count(op.forward, *arrays, **step.options)
    _, back_products, back_others = count(op.backward, counted(np.ones_like(np.asarray(y))), saved)
    table[op.name] = products, back_products, others, back_others
    ratio = f"{back_products / products:.2f}" if products else "–"
    other_ratio = f"{back_others / others:.2f}" if others else "–"
    intensity = (products + others) / step.cost.moved
    per_token = step.cost.saved / tokens.size
    print(
        f"{op.name:20} {products:15,}  {ratio:>9}  {others:16,}  {other_ratio:>9}  {intensity:9.1f}"
        f"  {per_token:11,.0f}"
    )
    assert (products, back_products) == (step.cost.flops, step.cost.backward_flops), "as the trace says"
    assert back_products == 2 * products

# %% [markdown]
"""Twice holds for every product whose two factors want a gradient, to the FLOP; and for nothing else. A
gelu's backward has twice the operations, a sum's has none, a norm's a quarter more.

**Attention in one piece** keeps no T × T array. So its backward computes the scores again: five
products instead of four, 2.5 times the forward's two. **Frozen weights** want no dW: then a linear
map's backward is one product, as its forward. For whole models these two say the ratio in advance."""

# %%
rows = np.random.default_rng(1).standard_normal((1, 4, 64, 16)).astype("float32")
(y, saved), forward, _ = count(ops.attend.forward, *(counted(rows + i) for i in range(3)))
_, backward, _ = count(ops.attend.backward, counted(rows), saved)
print(f"attention in one piece: backward / forward {backward / forward:.2f}")
assert backward == 2.5 * forward


def whole(T, trained):
    """(FLOPs of a forward, of its backward) of the model at a context of T, with those parameters trained."""
    config = numgpt.Config(**sizes, block_size=T)
    model = numgpt.GPT(config, seed=0)
    tokens, targets = np.random.default_rng(0).integers(0, 65, (2, B, T))
    params = {name: counted(array) for name, array in model.params.items()}
    grads = {name: np.zeros_like(array) for name, array in model.params.items() if trained(name)}
    run = Record(params, config, grads=grads)
    loss, forward, _ = count(transformer.loss.forward, run, tokens, targets)
    _, backward, _ = count(transformer.loss.backward, run, np.ones_like(loss))
    return forward, backward, flops_per_token(config)


print("\n     T  attention's share   backward / forward   foreseen  with frozen matrices  foreseen")
ratios = {}
for T in (16, 64, 256):
    forward, backward, parts = whole(T, lambda name: True)
    _, frozen, _ = whole(T, lambda name: "ln" in name)
    assert forward == B * T * sum(parts.values()), "as numgpt info counts"
    share = parts["attention, scores and sums"] / sum(parts.values())
    ratios[T] = share, backward / forward, frozen / forward
    foreseen = 2 + share / 2, 1 + 1.5 * share
    cells = (f"{found:18.4f}  {said:9.4f}" for found, said in zip(ratios[T][1:], foreseen))
    print(f"{T:6}  {share:17.2f}  ", *cells)
    assert np.allclose(ratios[T][1:], foreseen, rtol=1e-12)


# %%
def draw(figure):
    """Backward over forward by context length, counted and foreseen."""
    ax = figure.subplots()
    share = np.linspace(0, 0.6, 20)
    ax.plot(share, 2 + share / 2, ":", color="#1f4e8c", label="all trained: 2 + share/2")
    ax.plot(share, 1 + 1.5 * share, ":", color="#d55e00", label="matrices frozen: 1 + 3/2 share")
    for T, (at, trained, frozen) in ratios.items():
        ax.plot(at, trained, "o", color="#1f4e8c")
        ax.plot(at, frozen, "o", color="#d55e00")
        ax.annotate(f"T = {T}", (at, trained), xytext=(4, 6), textcoords="offset points")
    ax.set(xlabel="share of attention's scores and sums in the forward", ylabel="FLOPs, backward / forward")
    ax.set(title="is a backward twice its forward?", ylim=(0.9, 2.6))
    ax.legend(loc="lower right")


show(draw)
print("Twice, to the FLOP, where both factors of a product want a gradient and nothing is computed again.")
