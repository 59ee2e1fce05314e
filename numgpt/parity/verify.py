"""numgpt verify: every op, layer and model against PyTorch, steps of training, and who is closer to truth."""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import engine, ops
from ..architecture.config import Config
from ..model.gpt import GPT
from ..ops import Op
from ..proofs.subjects import (
    AGAIN,
    VARIANTS,
    Subject,
    block_layers,
    layer_subject,
    model_subject,
    op_subjects,
)
from ..random import generator
from ..training.optim import AdamW
from . import rounding, sixteen_bits, truth
from .borrowing import torch
from .comparison import Row
from .divergence import compare
from .modules import outcome
from .op_table import TORCH
from .sides import Theirs
from .torch_record import TorchRecord, leaf, tensor

FLOAT64 = 1e-12  # of the largest entry of an array
DTYPES = ("float64", "float32")
STEPS = 10
ROWS = 32  # of 16 tokens, in a step: enough for the numba engine to run a block as one piece
OF_ROUNDING = ", of what rounding explains"
TIMES_OWN = 4
TRUTH = "closer to the truth"
BY_LUCK = 1.1  # times PyTorch's error in bf16: which way each operand is rounded
TWICE = 2.0  # times PyTorch's error: more would need an explanation
SIZE: dict[str, Any] = {"vocab_size": 13, "block_size": 6, "n_layer": 2, "n_head": 2, "n_embd": 8}
TRANSFORMERS_SIZE: dict[str, Any] = {
    "n_positions": 16,
    "vocab_size": 61,
    "n_layer": 3,
    "n_head": 4,
    "n_embd": 32,
}
# Subjects at which PyTorch has no digits left, so that there is nothing to compare with.
LOST = dict.fromkeys(
    ("gelu (far left)", "gelu_tanh (far left)", "gelu_bloom (far left)"),
    "PyTorch's GELU is 0 there, because 1 + erf and 1 + tanh round to it; numgpt check holds ours",
)
LOST["softcap (out of sight)"] = "PyTorch's 1 − tanh² has lost its digits there; numgpt check holds ours"


@dataclass(frozen=True)
class Line:
    """One comparison with PyTorch.

    difference, limit: in the unit that what names. A limit of None: skipped, as detail says.
    """

    name: str
    what: str
    dtype: str
    difference: float
    limit: float | None
    detail: str = ""

    @property
    def holds(self) -> bool:
        """Whether the difference is within the limit; what was skipped does not fail."""
        return self.limit is None or self.difference <= self.limit

    def __str__(self) -> str:
        if self.limit is None:
            return f"{self.name:42}  {self.dtype:7}  {'':10}  {'':7}  {self.detail}"
        verdict = "ok" if self.holds else "FAILS"
        what = ", ".join(filter(None, (self.what, self.detail)))
        return (
            f"{self.name:42}  {self.dtype:7}  {self.difference:10.1e}  {self.limit:7g}  {verdict:5}  {what}"
        )


HEADER = f"{'name':42}  {'dtype':7}  difference    limit  verdict"


def names_of(seed: int = 0) -> list[str]:
    """The names of all that is compared."""
    return [*(s.name for s in subjects(seed)), *in_bf16(), *TRANSFORMERS, TRUTH]


def lines(seed: int = 0, names: Sequence[str] = ()) -> Iterator[Line]:
    """Yield a Line for each subject and dtype; names: only those that contain one of them."""

    def wanted(name: str) -> bool:
        return not names or any(n in name for n in names)

    for subject in subjects(seed):
        if wanted(subject.name):
            yield from subject_lines(subject, seed)
    for name, op in in_bf16().items():
        if wanted(name):
            yield bf16_line(name, op, seed)
    for name, make in TRANSFORMERS.items():
        if wanted(name):
            yield from transformers_lines(name, make, seed)


def subjects(seed: int) -> Iterator[Subject]:
    """Every op in its variants, and every layer and model in theirs."""
    for op in ops.ALL.values():
        yield from variants(op, seed)
    for name, changes in VARIANTS.items():
        config = Config(**SIZE | changes)
        for layer in block_layers(config):
            yield layer_subject(f"{layer.name} of {name}", layer, config, seed)
        yield model_subject(f"model {name}", config, seed)


def variants(op: Op, seed: int) -> Iterator[Subject]:
    """An op in its variants, of sizes at which no norm over two channels cancels all digits."""
    rng = np.random.default_rng([seed, 4])
    letters = sorted(set(filter(str.isupper, op.line)))
    sizes = {c: int(rng.integers(5, 10)) for c in letters}
    # what is called again before its backward is the same function: a law's affair, not PyTorch's
    yield from (s for s in op_subjects(op, seed, sizes) if not s.name.endswith(f"({AGAIN})"))


def subject_lines(subject: Subject, seed: int) -> Iterator[Line]:
    """A Line in each dtype, or one that says why there is none."""
    if subject.name in LOST:
        detail = f"skipped: {LOST[subject.name]}"
        yield Line(subject.name, "value and gradient", "", math.nan, None, detail)
        return
    for dtype in DTYPES:
        yield subject_line(subject, dtype, seed)


def subject_line(subject: Subject, dtype: str, seed: int) -> Line:
    """The value and every gradient of a pair at random arrays and dy, by numgpt and by PyTorch.

    float64: the largest difference, relative to the largest entry of the array. float32: the difference, root
    mean square, relative to what rounding explains.
    """
    arrays = [a.astype(dtype) if _is_float(a) else a for a in subject.arrays]
    y, saved = subject.forward(*arrays, **subject.options)
    dy = np.asarray(np.random.default_rng([seed, 5]).standard_normal(np.shape(y)), dtype)
    ours = [y, *(g for g in subject.backward(dy[()], saved) if g is not None)]
    theirs = by_torch(subject, arrays, dy)
    what = f"value and {len(ours) - 1} gradients"
    if dtype == "float64":
        worst = _largest(_relative(a, b) for a, b in zip(ours, theirs, strict=True))
        return Line(subject.name, what, dtype, worst, FLOAT64)
    apart = [rounding.rms(np.subtract(a, b, dtype=np.float64)) for a, b in zip(ours, theirs, strict=True)]
    limits = _explained(subject, arrays, dy, seed)
    worst = _largest(_ratio(a, limit) for a, limit in zip(apart, limits, strict=True))
    return Line(subject.name, f"{what}{OF_ROUNDING}", dtype, worst, 1.0)


def by_torch(subject: Subject, arrays: Sequence[Any], dy: Any) -> list[Any]:
    """The value and every gradient of a pair, by PyTorch."""
    t = torch()
    constants = frozenset() if subject.op is None else subject.op.constants
    leaves = [tensor(a) if i in constants else leaf(a) for i, a in enumerate(arrays)]
    if subject.op is not None:
        options = {k: tensor(v) for k, v in subject.options.items()}
        value = TORCH[subject.op.name](t, *leaves, **options)
    else:
        assert subject.on_record is not None
        r, layer, inputs = subject.on_record(TorchRecord, leaves)
        value = layer.forward(r, *inputs)
    if value.requires_grad:
        value.backward(t.from_numpy(dy))
    moving = [i for i, a in enumerate(arrays) if _is_float(a) and i not in constants]
    floats = [(arrays[i], leaves[i].grad) for i in moving]
    grads = [np.zeros_like(a) if grad is None else grad.numpy() for a, grad in floats]
    return [value.detach().numpy(), *grads]


def _explained(subject: Subject, arrays: Sequence[Any], dy: Any, seed: int) -> list[float]:
    """What rounding explains of the value and each gradient, as rounding.explained does for a model."""
    rows = dy.size // dy.shape[-1] if dy.ndim else 1
    K = max([rows, *(n for a in arrays if _is_float(a) for n in a.shape)])  # the longest sum
    exact = [a.astype(np.float64) if _is_float(a) else a for a in (*arrays, dy)]

    def run(rng: np.random.Generator | None = None) -> dict[int, Any]:
        moved = exact if rng is None else [rounding.moved(a, rounding.UNIT * K**0.5, rng) for a in exact]
        *given, upstream = moved
        y, saved = subject.forward(*given, **subject.options)
        grads = subject.backward(upstream[()], saved)
        return dict(enumerate([y, *(g for g in grads if g is not None)]))

    errors = rounding.spread(run(), run, 4, seed)
    return [error * rounding.unit("float32") / rounding.UNIT for error in errors.values()]


def in_bf16() -> dict[str, Op]:
    """The ops whose products are compared in bf16, by the names of their lines."""
    return {f"{op.name} in bf16": op for op in sixteen_bits.multiplying()}


def bf16_line(name: str, op: Op, seed: int) -> Line:
    """An op with products of bf16: our error against float64 beside that of PyTorch's autocast.

    Both round the same operands; PyTorch rounds what products give besides. All errors of the value and the
    gradients count alike, as root mean squares of float64's own.
    """
    pairs = list(sixteen_bits.errors(op, seed))
    ours, theirs = (math.hypot(*errors) / len(errors) ** 0.5 for errors in zip(*pairs))
    what = f"ours to PyTorch's error against float64, {ours:.1e} to {theirs:.1e}"
    return Line(name, what, sixteen_bits.FORMAT, _ratio(ours, theirs), BY_LUCK)


def transformers_lines(name: str, make: Callable[[int], Any], seed: int) -> Iterator[Line]:
    """A model of transformers: every value and gradient, and ten steps of AdamW.

    Or that transformers is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        yield Line(name, "values and gradients", "", math.nan, None, "skipped: transformers is not installed")
        return
    module = make(seed)
    for dtype in DTYPES:
        yield _model_line(name, module, dtype, seed)
    wide, short = (steps(module, dtype, seed) for dtype in DTYPES)
    what = f"losses of {STEPS} steps of AdamW"
    yield Line(name, what, "float64", _largest(abs(a / b - 1) for a, b in zip(*wide)), FLOAT64)
    # Adam magnifies rounding, so what float32 may do is measured by PyTorch's own distance between its two
    # precisions.
    own = max(abs(a / b - 1) for a, b in zip(short[1], wide[1])) + rounding.unit("float32")
    ours = _largest(abs(a / b - 1) for a, b in zip(short[0], wide[1]))
    what += f", of {TIMES_OWN} times PyTorch's own from float64"
    yield Line(name, what, "float32", ours / (TIMES_OWN * own), 1.0)


def _model_line(name: str, module: Any, dtype: str, seed: int) -> Line:
    """The worst of all values and gradients of a module."""
    rows = [r for r in compare(module, dtype=dtype, seed=seed).rows if r.stage != "parameter"]
    what = f"{len(rows)} values and gradients"
    limit = FLOAT64
    if dtype != "float64":
        what += OF_ROUNDING
        limit = 1.0

    def apart(row: Row) -> float:
        if dtype == "float64":
            return row.difference / (row.size or 1.0)
        return _ratio(row.difference, row.explained)

    worst = max(rows, key=lambda row: _sortable(apart(row)))
    return Line(name, what, dtype, apart(worst), limit, f"most at {worst.name}")


def steps(module: Any, dtype: str, seed: int) -> tuple[list[float], list[float]]:
    """(numgpt's losses, PyTorch's) before each of ten steps of AdamW, from the same weights and batches."""
    t = torch()
    module = copy.deepcopy(module).to(getattr(t, dtype)).eval()
    side = Theirs(module)
    model = GPT(side.config, params=side.params(dtype), dtype=dtype).to(engine.current())
    settings: dict[str, Any] = {"betas": (0.9, 0.95), "weight_decay": 0.1}
    lr = 1e-2
    ours = AdamW(model, clip=0, **settings)
    groups = [
        {"params": [p for p in module.parameters() if p.ndim > 1]},
        {"params": [p for p in module.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    theirs = t.optim.AdamW(groups, lr=lr, **settings)
    rng = generator(seed, "verify")
    our_losses, their_losses = [], []
    for _ in range(STEPS):
        ids = rng.integers(0, model.config.vocab_size, (ROWS, model.config.block_size + 1))
        tokens, targets = np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:])
        loss, grads = model.loss_and_grads(tokens, targets)
        ours.step(grads, lr)
        theirs.zero_grad()
        their_targets = t.from_numpy(targets)
        out = side.call(module, t.from_numpy(tokens), their_targets)
        _, their_loss = outcome(out, their_targets)
        their_loss.backward()
        theirs.step()
        our_losses.append(float(loss))
        their_losses.append(their_loss.item())
    return our_losses, their_losses


def truth_lines(tensors: Sequence[truth.Tensor]) -> Iterator[Line]:
    """What truth.measure found, held to two limits.

    In the geometric mean no worse than PyTorch, but for what NumPy's BLAS errs more than PyTorch's on this
    processor; and nowhere more than twice as far off.
    """
    what = f"{len(tensors)} tensors of a step, geometric mean of ours to PyTorch's error"
    yield Line(TRUTH, what, "float32", truth.geometric_mean(tensors), max(1.0, truth.blas_ratio()))
    worst = max(tensors, key=lambda x: _sortable(x.ratio))
    what = "the worst tensor's error, ours to PyTorch's"
    yield Line(TRUTH, what, "float32", worst.ratio, TWICE, f"{worst.stage} {worst.name}")


def gpt2(seed: int) -> Any:
    """A GPT-2 of transformers with random weights away from their initial values."""
    import transformers

    more: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0, "attn_implementation": "eager"}
    config = transformers.GPT2Config(**TRANSFORMERS_SIZE, **more)
    return _shaken(transformers.GPT2LMHeadModel, config, seed)


def gpt1(seed: int) -> Any:
    """A GPT of transformers, whose norms stand after each sum."""
    import transformers

    config = transformers.OpenAIGPTConfig(**TRANSFORMERS_SIZE)
    return _shaken(transformers.OpenAIGPTLMHeadModel, config, seed)


def _shaken(kind: Callable[[Any], Any], config: Any, seed: int) -> Any:
    """A model whose parameters are random: scales around 1, all others around 0."""
    t, rng = torch(), np.random.default_rng([seed, 6])
    module = kind(config)
    with t.no_grad():
        for name, p in sorted(module.named_parameters()):
            is_scale = p.ndim == 1 and name.endswith("weight")
            values = 0.1 * rng.standard_normal(tuple(p.shape)) + is_scale
            p.copy_(t.from_numpy(values.astype(np.float32)))
    return module.eval()


TRANSFORMERS = {"GPT-2 of transformers": gpt2, "GPT-1 of transformers": gpt1}


def _is_float(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind == "f"


def _relative(ours: Any, theirs: Any) -> float:
    """The largest difference, relative to the largest entry of theirs."""
    difference = float(np.abs(np.subtract(ours, theirs)).max(initial=0.0))
    return _ratio(difference, float(np.abs(theirs).max(initial=0.0)))


def _ratio(difference: float, size: float) -> float:
    """difference / size; 0 where both are 0."""
    if difference == 0:
        return 0.0
    return difference / size if size else math.inf


def _largest(values: Iterable[float]) -> float:
    """The largest; NaN where there is one, which max would pass over."""
    return max(values, key=_sortable)


def _sortable(value: float) -> float:
    return math.inf if math.isnan(value) else value
