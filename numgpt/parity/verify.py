"""numgpt verify: every op, layer and model variant against PyTorch, transformers' models, ten steps of AdamW,
and long double.
"""

import copy
import importlib.util
import math
from dataclasses import dataclass

import numpy as np

from .. import engine, ops
from ..architecture.config import Config
from ..layers.transformer import BLOCKS, causal_attention, ffn
from ..model.gpt import GPT
from ..proofs.subjects import VARIANTS, layer_subject, model_subject, op_subjects
from ..random import generator
from ..training.optim import AdamW
from . import rounding, truth
from .borrowing import torch
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
# What PyTorch has no digits of, so that there is nothing to compare with; the complex step holds ours.
LOST = dict.fromkeys(
    ("gelu (far left)", "gelu_tanh (far left)"),
    "PyTorch's GELU is 0 there, because 1 + erf and 1 + tanh round to it; numgpt check holds ours",
)
TWICE = 2.0  # times PyTorch's error: what would want an explanation
SIZE = {"vocab_size": 13, "block_size": 6, "n_layer": 2, "n_head": 2, "n_embd": 8}


@dataclass(frozen=True)
class Line:
    """One comparison with PyTorch. difference and limit in the unit that what names; a limit of None:
    skipped, as detail says.
    """

    name: str
    what: str
    dtype: str
    difference: float
    limit: float | None
    detail: str = ""

    @property
    def holds(self):
        """Whether the difference is within the limit; what was skipped does not fail."""
        return self.limit is None or self.difference <= self.limit

    def __str__(self):
        if self.limit is None:
            return f"{self.name:42}  {self.dtype:7}  {'':10}  {'':7}  {self.detail}"
        verdict = "ok" if self.holds else "FAILS"
        return (
            f"{self.name:42}  {self.dtype:7}  {self.difference:10.1e}  {self.limit:7g}  {verdict:5} "
            f" {self.what}{self.detail and ', ' + self.detail}"
        )


HEADER = f"{'name':42}  {'dtype':7}  difference    limit  verdict"


def names_of(seed=0):
    """The names of all that is compared."""
    return [*(s.name for s in subjects(seed)), *TRANSFORMERS, TRUTH]


def lines(seed=0, names=()):
    """Yield a Line for each subject and dtype; names: only those that contain one of them."""
    for subject in subjects(seed):
        if not names or any(n in subject.name for n in names):
            if subject.name in LOST:
                yield Line(
                    subject.name, "value and gradient", "", math.nan, None, f"skipped: {LOST[subject.name]}"
                )
                continue
            for dtype in DTYPES:
                yield subject_line(subject, dtype, seed)
    for name, make in TRANSFORMERS.items():
        if not names or any(n in name for n in names):
            yield from transformers_lines(name, make, seed)


def subjects(seed):
    """Every op in its variants, and every layer and model in theirs."""
    for op in ops.ALL.values():
        yield from variants(op, seed)
    for name, changes in VARIANTS.items():
        config = Config(**SIZE | changes)
        for part, layer in (
            ("attention", causal_attention),
            ("ffn", ffn),
            ("block", BLOCKS[config.norm_position]),
        ):
            yield layer_subject(f"{part} of {name}", layer, config, seed)
        yield model_subject(f"model {name}", config, seed)


def variants(op, seed):
    """An op in its variants, of sizes at which no norm over two channels cancels all digits."""
    rng = np.random.default_rng([seed, 4])
    yield from op_subjects(
        op, seed, {c: int(rng.integers(5, 10)) for c in sorted(set(filter(str.isupper, op.line)))}
    )


def subject_line(subject, dtype, seed):
    """The value and every gradient of a pair, at random arrays and a random upstream gradient, by numgpt and
    by PyTorch.

    float64: the largest difference, relative to the largest entry of the array. float32: the difference, root
    mean square, relative to what rounding explains.
    """
    t = torch()
    arrays = [a.astype(dtype) if _is_float(a) else a for a in subject.arrays]
    y, saved = subject.forward(*arrays, **subject.options)
    dy = np.asarray(np.random.default_rng([seed, 5]).standard_normal(np.shape(y)), dtype)
    ours = [y, *(g for g in subject.backward(dy[()], saved) if g is not None)]
    leaves = [leaf(a) for a in arrays]
    theirs = _in_torch(subject, t, leaves)
    if theirs.requires_grad:
        theirs.backward(t.from_numpy(dy))
    theirs = [
        theirs.detach().numpy(),
        *(
            np.zeros_like(a) if x.grad is None else x.grad.numpy()
            for a, x in zip(arrays, leaves)
            if _is_float(a)
        ),
    ]
    if dtype == "float64":
        worst = _largest(_relative(a, b) for a, b in zip(ours, theirs, strict=True))
        return Line(subject.name, f"value and {len(ours) - 1} gradients", dtype, worst, FLOAT64)
    limits = _explained(subject, arrays, dy, seed)
    worst = _largest(
        _ratio(rounding.rms(np.subtract(a, b, dtype=np.float64)), e)
        for a, b, e in zip(ours, theirs, limits, strict=True)
    )
    return Line(subject.name, f"value and {len(ours) - 1} gradients{OF_ROUNDING}", dtype, worst, 1.0)


def _in_torch(subject, t, leaves):
    """The value of a subject's forward, by PyTorch."""
    if subject.op is not None:
        return TORCH[subject.op.name](t, *leaves, **{k: tensor(v) for k, v in subject.options.items()})
    r, layer, inputs = subject.made(TorchRecord, leaves)
    return layer.forward(r, *inputs)


def _explained(subject, arrays, dy, seed):
    """What rounding explains of the value and each gradient, as rounding.explained does for a model."""
    K = max(
        [dy.size // dy.shape[-1] if dy.ndim else 1, *(n for a in arrays if _is_float(a) for n in a.shape)]
    )  # the longest sum: over an axis, or all rows
    wide, upstream = [a.astype(np.float64) if _is_float(a) else a for a in arrays], dy.astype(np.float64)

    def run(rng=None):
        *given, up = (
            [*wide, upstream]
            if rng is None
            else [rounding.moved(a, rounding.UNIT * K**0.5, rng) for a in (*wide, upstream)]
        )
        y, saved = subject.forward(*given, **subject.options)
        return dict(enumerate([y, *(g for g in subject.backward(up[()], saved) if g is not None)]))

    return [
        limit * rounding.unit("float32") / rounding.UNIT
        for limit in rounding.spread(run(), run, 4, seed).values()
    ]


def transformers_lines(name, make, seed):
    """A model of transformers: every value and gradient, and ten steps of AdamW; or that transformers is not
    installed.
    """
    if importlib.util.find_spec("transformers") is None:
        yield Line(name, "values and gradients", "", math.nan, None, "skipped: transformers is not installed")
        return
    module = make(seed)
    for dtype in DTYPES:
        found = compare(module, dtype=dtype, seed=seed)
        rows = [r for r in found.rows if r.stage != "parameter"]
        if dtype == "float64":
            worst = max(rows, key=lambda r: _sortable(r.difference / (r.size or 1.0)))
            yield Line(
                name,
                f"{len(rows)} values and gradients",
                dtype,
                worst.difference / (worst.size or 1.0),
                FLOAT64,
                f"most at {worst.name}",
            )
        else:
            worst = max(rows, key=lambda r: _sortable(_ratio(r.difference, r.explained)))
            yield Line(
                name,
                f"{len(rows)} values and gradients{OF_ROUNDING}",
                dtype,
                _ratio(worst.difference, worst.explained),
                1.0,
                f"most at {worst.name}",
            )
    wide, short = (steps(module, dtype, seed) for dtype in DTYPES)
    what = f"losses of {STEPS} steps of AdamW"
    yield Line(name, what, "float64", _largest(abs(a / b - 1) for a, b in zip(*wide)), FLOAT64)
    # Adam magnifies rounding, so PyTorch's own distance between its two precisions is the measure of what
    # float32 may do.
    own = max(abs(a / b - 1) for a, b in zip(short[1], wide[1])) + rounding.unit("float32")
    yield Line(
        name,
        f"{what}, of {TIMES_OWN} times PyTorch's own from float64",
        "float32",
        _largest(abs(a / b - 1) for a, b in zip(short[0], wide[1])) / (TIMES_OWN * own),
        1.0,
    )


def steps(module, dtype, seed):
    """(numgpt's losses, PyTorch's): before each of ten steps of AdamW, from the module's weights and on the
    same batches.
    """
    t = torch()
    module = copy.deepcopy(module).to(getattr(t, dtype)).eval()
    side = Theirs(module)
    model = GPT(side.config, params=side.params(dtype), dtype=dtype).to(engine.current())
    settings, lr = {"betas": (0.9, 0.95), "weight_decay": 0.1}, 1e-2
    ours = AdamW(model, clip=0, **settings)
    groups = [[p for p in module.parameters() if (p.ndim > 1) is wanted] for wanted in (True, False)]
    theirs = t.optim.AdamW(
        [{"params": groups[0]}, {"params": groups[1], "weight_decay": 0.0}], lr=lr, **settings
    )
    rng, losses = generator(seed, "verify"), ([], [])
    for _ in range(STEPS):
        ids = rng.integers(0, model.config.vocab_size, (ROWS, model.config.block_size + 1))
        tokens, targets = np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:])
        loss, grads = model.loss_and_grads(tokens, targets)
        ours.step(grads, lr)
        theirs.zero_grad()
        _, their_loss = outcome(
            side.call(module, t.from_numpy(tokens), t.from_numpy(targets)), t.from_numpy(targets)
        )
        their_loss.backward()
        theirs.step()
        losses[0].append(float(loss))
        losses[1].append(their_loss.item())
    return losses


def truth_lines(tensors):
    """What truth.measure found, held to: no worse than PyTorch in the geometric mean, and nowhere more than
    twice as far off.
    """
    yield Line(
        TRUTH,
        f"{len(tensors)} tensors of a step, geometric mean of ours to PyTorch's error",
        "float32",
        truth.geometric_mean(tensors),
        1.0,
    )
    worst = max(tensors, key=lambda x: _sortable(x.ratio))
    yield Line(
        TRUTH,
        "the worst tensor's error, ours to PyTorch's",
        "float32",
        worst.ratio,
        TWICE,
        f"{worst.stage} {worst.name}",
    )


def gpt2(seed):
    """A GPT-2 of transformers with random weights away from their initial values."""
    import transformers

    config = transformers.GPT2Config(
        n_positions=16,
        vocab_size=61,
        n_layer=3,
        n_head=4,
        n_embd=32,
        attn_implementation="eager",
        bos_token_id=0,
        eos_token_id=0,
    )
    return _shaken(transformers.GPT2LMHeadModel, config, seed)


def gpt1(seed):
    """A GPT of transformers, whose norms stand after each sum."""
    import transformers

    return _shaken(
        transformers.OpenAIGPTLMHeadModel,
        transformers.OpenAIGPTConfig(n_positions=16, vocab_size=61, n_layer=3, n_head=4, n_embd=32),
        seed,
    )


def _shaken(kind, config, seed):
    t, rng = torch(), np.random.default_rng([seed, 6])
    module = kind(config)
    with t.no_grad():
        for name, p in sorted(module.named_parameters()):
            p.copy_(
                t.from_numpy(
                    (
                        0.1 * rng.standard_normal(tuple(p.shape)) + (p.ndim == 1 and name.endswith("weight"))
                    ).astype(np.float32)
                )
            )
    return module.eval()


TRANSFORMERS = {"GPT-2 of transformers": gpt2, "GPT-1 of transformers": gpt1}


def _is_float(array):
    return isinstance(array, np.ndarray) and array.dtype.kind == "f"


def _relative(ours, theirs):
    return _ratio(
        float(np.abs(np.subtract(ours, theirs)).max(initial=0.0)), float(np.abs(theirs).max(initial=0.0))
    )


def _ratio(difference, size):
    """difference / size; 0 where both are 0."""
    return 0.0 if difference == 0 else difference / size if size else math.inf


def _largest(values):
    """The largest; NaN where there is one, which max would pass over."""
    return max(values, key=_sortable)


def _sortable(value):
    return math.inf if math.isnan(value) else value
