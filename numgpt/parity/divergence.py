"""The first place where two models part, and why."""

import itertools
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from ..architecture.config import LARGEST, Config
from ..errors import InputError
from ..model.gpt import GPT
from ..ops.op import check_ids
from ..random import generator
from . import rounding
from .causes import CAUSES, MANY, local
from .comparison import Comparison, Row, first, rows
from .modules import is_module
from .sides import Ours, State, Theirs, is_state, opened

DEPTH = 3  # causes that may act together
SMALLER = 30  # times: a cause that shrinks the first difference by so much is one, though something is left
# times what rounding explains of A, or B's last digit: more than it explains of a changed form, which is
# measured where that is near
ROOM = 1000


@np.errstate(
    over="ignore", invalid="ignore", divide="ignore"
)  # what is not finite is found where it is compared
def compare(
    module,
    model=None,
    tokens=None,
    targets=None,
    *,
    names=None,
    call=None,
    dtype="float64",
    seed=0,
    shape=(2, None),
):
    """Load a PyTorch module's weights into numgpt, run both on the same batch, and compare every value and
    gradient by name.

    model: a GPT or a Config that says what the module should compute; read off the module unless given.
    names: numgpt's name -> the module's path, for one that does not name its parts as nanoGPT, minGPT or
    transformers do.
    call: (module, tokens, targets) -> (logits, loss), for one that takes them in another way. tokens, targets
    (B, T) integers, targets below 0 do not count: drawn by seed unless given, in a shape (B, T), T None: 16
    or what the block size allows. dtype: in which both run. Returns a Comparison; its check() raises
    ParityError where they differ by more than rounding explains.
    """
    if not is_module(module):
        raise InputError(
            f"compare: was given {type(module).__name__}, expected a torch.nn.Module: first_divergence takes"
            " checkpoints and files too"
        )
    theirs = Theirs(module, names, call, config=_config(model))
    ours = Ours(GPT(theirs.config, params=theirs.params(), dtype="float64"), "numgpt with the weights of B")
    return _compare((ours, theirs), _batch((ours, theirs), tokens, targets, seed, shape), _dtype(dtype))[0]


@np.errstate(
    over="ignore", invalid="ignore", divide="ignore"
)  # what is not finite is found where it is compared
def first_divergence(
    a,
    b,
    tokens=None,
    targets=None,
    *,
    names=None,
    call=None,
    optimizers=(None, None),
    lr=None,
    dtype="float64",
    seed=0,
    shape=(2, None),
):
    """The first value, else gradient, by which two models part beyond rounding, and the likely cause, found
    by trying.

    a, b: each a GPT, a PyTorch module, or the path of a checkpoint, of a folder of transformers or of a file
    of llm.c; each runs with its own weights. Where one of them is numgpt's it is called A. A debug state of
    llm.c brings its own batch. names, call, tokens, targets, seed, shape: as in compare.
    optimizers: an AdamW of each side (of numgpt, of torch.optim), whose first step from zero moments is then
    compared too; lr: of numgpt's, that of PyTorch's unless given. Returns a Divergence; print it.
    """
    sides = _opened((a, b), names, call, optimizers, lr)
    batch = _batch(sides, tokens, targets, seed, shape)
    comparison, runs, resolution = _compare(sides, batch, _dtype(dtype))
    form, left, causes, untried = sides[0].form, comparison.first, [], list(CAUSES)
    known = isinstance(sides[0], Ours) or _agrees(
        form, runs[0], batch, resolution
    )  # else no change of the form tells anything
    while known and left is not None and len(causes) < DEPTH:
        found = _best_cause(form, runs, batch, comparison.rows, left, resolution, untried)
        if found is None:
            break
        cause, text, form, left = found
        causes.append(text)
        if cause in untried and cause not in MANY:  # else the second would undo the first
            untried.remove(cause)
    return Divergence(comparison, tuple(causes), left)


@dataclass(frozen=True)
class Divergence:
    """What first_divergence found: the comparison, its first Row that differs, the rows that agree before it,
    and likely causes.

    causes: what was found by trying, in order; each acts on top of those before it. left: the first Row that
    differs with all of
    them, or None: then they explain everything.
    """

    comparison: Comparison
    causes: tuple = ()
    left: Row = None

    @property
    def first(self):
        """The Row where the models part, None where they do not."""
        return self.comparison.first

    @property
    def agreeing(self):
        """The rows of its stage, and of the stages that are computed before, that agree before it."""
        rows = [r for r in self.comparison.rows if r.stage != "parameter"]
        return rows if self.first is None else rows[: rows.index(self.first)] if self.first in rows else rows

    def __str__(self):
        c, first = self.comparison, self.first
        lines = [f"A  {c.a}", f"B  {c.b}", "", c.summary]
        if first is None:
            return "\n".join([*lines, f"no difference that rounding in {c.dtype} does not explain"])
        before = [r.name for r in self.agreeing if r.stage == first.stage]
        if before:
            lines.append(
                "agree before it:"
                f" {', '.join(before) if len(before) <= 6 else ', '.join(before[:3]) + ', … ' + ', '.join(before[-2:]) + f' ({len(before)} {first.stage}s)'}"
            )
        size = first.size or 1.0
        lines.append(
            f"the first that differs: {first.stage} {first.name}, by {first.difference / size:.1e} of its"
            f" size, where rounding in {c.dtype} explains {first.explained / size:.1e}"
        )
        lines += [f"  {first.note}"] if first.note else []
        odd = [r.name for r in c.rows if r.stage == "parameter" and not r.agrees]
        if odd:
            lines.append(
                "parameters that differ:"
                f" {', '.join(odd[:4])}{f' and {len(odd) - 4} more' if len(odd) > 4 else ''}"
            )
        lines += [f"likely cause: {text}" for text in self.causes]
        if not self.causes:
            lines.append(
                "no likely cause: none of those that are known makes A give what B gives"
                + (", and the parameters differ: trained otherwise?" if odd else "")
            )
        elif self.left is None:
            lines.append(
                f"with {'that' if len(self.causes) == 1 else 'those'} changed in A, everything agrees"
            )
        else:
            lines.append(
                f"with {'that' if len(self.causes) == 1 else 'those'} changed in A, the first that differs is"
                f" {self.left.stage} {self.left.name}"
            )
        return "\n".join(lines)


def _best_cause(form, runs, batch, compared, left, dtype, causes):
    """(cause, what, form, the first Row that is left) of the cause that explains most; None where none moves
    the first difference on.
    """
    place = {(r.stage, r.name): n for n, r in enumerate(_computed(compared))}
    theirs, best = runs[1].named(), None
    wide = {
        k: ROOM * max(r.explained, rounding.unit(dtype) * rounding.rms(theirs[k]))
        for r in _computed(compared)
        for k in [(r.stage, r.name)]
    }

    def reached(row):  # by A's own order: that of the changed form may be another
        return place.get((row.stage, row.name), len(place))

    def first_left(run, limits):
        return min(
            (r for r in _computed(rows(run, runs[1], limits, dtype)) if not r.agrees),
            key=reached,
            default=None,
        )

    def moves_on(row):
        return (
            row is None
            or reached(row) > reached(left)
            or (reached(row) == reached(left) and row.difference * SMALLER < left.difference)
        )

    here = ((None, *tried) for tried in local(form, *runs, left.name)) if left.stage == "value" else ()
    forms = itertools.chain(((cause, *tried) for cause in causes for tried in cause(form, *runs)), here)
    for cause, text, changed in tqdm(forms, "causes tried", unit="", leave=False, disable=None):
        try:
            run = changed.run(*batch)
        except InputError:  # a form that does not fit the batch
            continue
        if not moves_on(first_left(run, wide)):
            continue
        found = first_left(run, rounding.explained(changed, *batch, dtype, run))
        if found is None:
            return cause, text, changed, None
        score = reached(found), -found.difference / (found.size or 1.0)
        if moves_on(found) and (best is None or score > best[0]):
            best = score, cause, text, changed, found
    return None if best is None else best[1:]


def _agrees(form, run, batch, dtype):
    """Whether a form gives what a Run of another program holds."""
    return (
        first(_computed(rows(form.run(*batch), run, rounding.explained(form, *batch, dtype), dtype))) is None
    )


def _computed(rows):
    """The rows of what was computed, not given."""
    return [r for r in rows if r.stage != "parameter"]


def _compare(sides, batch, dtype):
    """(Comparison, both Runs, the dtype whose rounding counts: the coarser of dtype and that of a file)."""
    runs = tuple(side.run(*batch, dtype) for side in sides)
    resolution = max([np.dtype(dtype), *(s.dtype for s in sides if isinstance(s, State))], key=rounding.unit)
    clean = runs[0] if isinstance(sides[0], Ours) and dtype == "float64" else None
    found = rows(*runs, rounding.explained(sides[0].form, *batch, resolution, clean), resolution)
    if not _computed(found):
        raise InputError(
            f"parity: {sides[0].title} and {sides[1].title} have no value in common, expected names that both"
            " know"
        )
    return Comparison(sides[0].title, sides[1].title, resolution.name, found), runs, resolution


def _opened(things, names, call, optimizers, lr):
    """Both sides; a debug state is read with the other's config."""
    if (
        not isinstance(optimizers, tuple | list)
        or len(optimizers) != 2
        or (optimizers[0] is None) is not (optimizers[1] is None)
    ):
        raise InputError("parity: optimizers are not two, expected an AdamW of each side, or none")
    if lr is None:
        lr = next((float(o.param_groups[0]["lr"]) for o in optimizers if hasattr(o, "param_groups")), None)
    options = [{"names": names, "call": call, "optimizer": o, "lr": lr} for o in optimizers]
    if is_state(things[0]):
        things, options = things[::-1], options[::-1]
    a = opened(things[0], **options[0])
    b = opened(things[1], a.config, **options[1])
    if isinstance(b, Ours) and not isinstance(a, Ours):
        a, b = b, a
    for name in ("n_embd", "n_layer"):
        if getattr(a.config, name) != getattr(b.config, name):
            raise InputError(
                f"parity: A and B have {name} {getattr(a.config, name)} and {getattr(b.config, name)},"
                " expected two models of one size"
            )
    return a, b


def _batch(sides, tokens, targets, seed, shape):
    """(tokens, targets): those given, those of a debug state, or drawn by seed, each target the token after."""
    own = next((s.batch for s in sides if isinstance(s, State)), None)
    if own is not None:
        if tokens is not None or targets is not None:
            raise InputError(
                "parity: tokens or targets came beside a debug state, expected none: it brings its own"
            )
        return own
    V, longest = (min(getattr(s.config, name) for s in sides) for name in ("vocab_size", "block_size"))
    if tokens is None and targets is None:
        B, T = _shape(shape, longest)
        drawn = generator(seed, "parity").integers(0, V, (B, T + 1))
        return np.ascontiguousarray(drawn[:, :-1]), np.ascontiguousarray(drawn[:, 1:])
    if tokens is None or targets is None:
        raise InputError(
            f"parity: {'targets' if tokens is None else 'tokens'} came alone, expected tokens and targets,"
            " (B, T) integers"
        )
    tokens, targets = _ids("tokens", tokens, V), _ids("targets", targets, V)
    if tokens.shape != targets.shape or tokens.shape[1] > longest:
        raise InputError(
            f"parity: tokens have shape {tokens.shape} and targets {targets.shape}, expected (B, T) of both,"
            f" T at most block_size {longest}"
        )
    return tokens, targets


def _shape(shape, longest):
    """(B, T) of a batch to draw."""
    B, T = shape if isinstance(shape, tuple | list) and len(shape) == 2 else (None, None)
    T = min(16, longest) if T is None else T
    if not all(isinstance(n, int | np.integer) and n >= 1 for n in (B, T)) or longest < T or B > LARGEST:
        raise InputError(
            f"parity: the shape of the batch is {shape!r}, expected (B, T) from 1, B at most {LARGEST:,}, T"
            f" at most block_size {longest}"
        )
    return B, T


def _ids(who, ids, V):
    """Ids from a list, an array or a tensor.  → (B, T) int64"""
    try:
        ids = np.atleast_2d(np.asarray(ids))
    except (ValueError, TypeError) as error:  # rows that differ in length; a tensor of another device
        raise InputError(
            f"parity: {who} are no array ({' '.join(str(error).split())}), expected (B, T) integers"
        ) from error
    if ids.ndim != 2 or not ids.size:
        raise InputError(f"parity: {who} have shape {ids.shape}, expected (B, T) with at least one")
    check_ids(f"parity: {who}", ids, V, negative=who == "targets")
    return np.ascontiguousarray(ids, np.int64)


def _dtype(dtype):
    """The name of a dtype in which both sides can run."""
    try:
        name = np.dtype(dtype).name if dtype is not None else None
    except TypeError:
        name = None
    if name not in ("float32", "float64"):
        raise InputError(f"parity: dtype is {dtype}, expected float32 or float64")
    return name


def _config(model):
    if model is None or isinstance(model, Config):
        return model
    if not isinstance(model, GPT):
        raise InputError(f"parity: model is {type(model).__name__}, expected a GPT or a Config")
    return model.config
