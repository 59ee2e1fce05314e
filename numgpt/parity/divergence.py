"""The first place where two models part, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..architecture.config import Config
from ..arguments import checked
from ..errors import InputError
from ..gradcheck.places import degenerate
from ..model.gpt import GPT
from . import rounding
from .batch import Batch, batch_of, dtype_of
from .causes import CAUSES, MANY
from .comparison import Comparison, Row, computed, cut, first, rows
from .forms import Form, Run
from .modules import Call, is_module
from .search import Search, best_cause
from .settings import Settings, differing, of_optimizer, side_settings
from .sides import Ours, State, Theirs, is_state, opened

DEPTH = 3  # causes that may act together
SHOWN = 6  # names of a list, before it is shortened


@np.errstate(all="ignore")  # the comparison finds what is not finite
@checked
def compare(
    module: Any,
    model: GPT | Config | None = None,
    tokens: ArrayLike | None = None,
    targets: ArrayLike | None = None,
    *,
    names: Mapping[str, str] | None = None,
    call: Call | None = None,
    dtype: str = "float64",
    seed: int = 0,
    shape: tuple[int, int | None] = (2, None),
) -> Comparison:
    """Compare every value and gradient of a PyTorch module with numgpt's, name by name.

    The module's weights are loaded into numgpt, and both run on the same batch.

    Parameters
    ----------
    module : torch.nn.Module
        A GPT. It may be frozen, compiled, in half precision or in training, and is left as it was.
    model : GPT or Config, optional
        What the module should compute; read off the module unless given.
    tokens, targets : array_like of int, shape (B, T), optional
        The batch; targets below 0 do not count. Drawn by the seed unless given.
    names : mapping, optional
        numgpt's name → the module's path, for a module that does not name its parts as nanoGPT, minGPT or
        transformers do. parity.GPT2 and parity.GPT1 are such maps.
    call : callable, optional
        (module, tokens, targets) → (logits, loss), for a module that takes them in another way.
    dtype : {"float64", "float32"}, default "float64"
        In which both run.
    seed : int, default 0
        Draws the batch.
    shape : (B, T), default (2, None)
        Of the batch that is drawn; T None: 16, or what the block size allows.

    Returns
    -------
    Comparison
        A Row for each name; its check() raises ParityError where they differ by more than rounding explains.

    Raises
    ------
    InputError
        The module is none, its parts have other names, or it cannot be run.

    Examples
    --------
    >>> from numgpt import parity
    >>> parity.compare(module).check()                          # doctest: +SKIP
    >>> parity.compare(module, dtype="float32").summary         # doctest: +SKIP
    '28 of 28 parameters agree, 31 of 31 values agree, 59 of 59 gradients agree'
    """
    if not is_module(module):
        raise InputError(
            f"compare: was given {type(module).__name__}, expected a torch.nn.Module: first_divergence takes"
            " checkpoints and files too"
        )
    theirs = Theirs(module, names, call, config=_config(model))
    ours = Ours(GPT(theirs.config, params=theirs.params(), dtype="float64"), "numgpt with the weights of B")
    batch = batch_of((ours, theirs), tokens, targets, seed, shape)
    return _compare((ours, theirs), batch, dtype_of(dtype))[0]


@np.errstate(all="ignore")  # the comparison finds what is not finite
@checked
def first_divergence(
    a: Any,
    b: Any,
    tokens: ArrayLike | None = None,
    targets: ArrayLike | None = None,
    *,
    names: Mapping[str, str] | None = None,
    call: Call | None = None,
    optimizers: Sequence[Any] = (None, None),
    lr: float | None = None,
    dtype: str = "float64",
    seed: int = 0,
    shape: tuple[int, int | None] = (2, None),
) -> Divergence:
    """The first value, else gradient, by which two models part beyond rounding, and the likely cause.

    Causes are found by trying: each changes what one side computes, and is likely if that side then gives
    what the other gives.

    Parameters
    ----------
    a, b : GPT, torch.nn.Module, str or path
        The path of a checkpoint, of a folder of transformers, or of a file of llm.c or llama2.c. Each runs
        with its own weights. Where one of them is numgpt's it is called A. A debug state of llm.c brings its
        own batch.
    tokens, targets, names, call, dtype, seed, shape
        As in compare.
    optimizers : pair, default (None, None)
        An AdamW of each side (of numgpt, of torch.optim), whose first step from zero moments is then compared
        too.
    lr : float, optional
        Of numgpt's AdamW; that of PyTorch's unless given.

    Returns
    -------
    Divergence
        Print it.

    Raises
    ------
    InputError
        One of the two cannot be read or run, or they have different sizes.

    Examples
    --------
    >>> import numgpt
    >>> settings = {"vocab_size": 5, "block_size": 4, "n_layer": 1, "n_head": 2, "n_embd": 4}
    >>> tanh = numgpt.GPT(numgpt.Config(**settings))
    >>> erf = numgpt.GPT(numgpt.Config(**settings, activation="gelu"), params=tanh.params)
    >>> print(*numgpt.parity.first_divergence(tanh, erf).causes)
    GELU in its tanh form in A, GELU in its erf form in B
    """
    sides, settings = _opened((a, b), names, call, optimizers, lr)
    batch = batch_of(sides, tokens, targets, seed, shape)
    comparison, runs, resolution = _compare(sides, batch, dtype_of(dtype))
    form, left = sides[0].form, comparison.first
    texts: list[str] = []
    untried = list(CAUSES)
    # else no change of the form tells anything
    is_known = isinstance(sides[0], Ours) or _agrees(form, runs[0], batch, resolution)
    # nor where all that is computed agrees already
    while is_known and left is not None and left.stage != "parameter" and len(texts) < DEPTH:
        best = best_cause(Search(runs, batch, comparison.rows, left, resolution), form, untried)
        if best is None:
            break
        form, left = best.form, best.left
        texts.append(best.text)
        if best.cause in untried and best.cause not in MANY:  # else the second would undo the first
            untried.remove(best.cause)
    return Divergence(comparison, tuple(texts), left, settings)


@dataclass(frozen=True)
class Divergence:
    """What first_divergence returns; prints as a short report.

    Attributes
    ----------
    comparison : Comparison
        All rows.
    causes : tuple of str
        What was found by trying, in order; each acts on top of those before it.
    left : Row or None
        The first that differs with all causes at work. None: they explain everything.
    settings : Settings or None
        Those in which the two models and their optimizers differ, whether it shows or not.
    """

    comparison: Comparison
    causes: tuple[str, ...] = ()
    left: Row | None = None
    settings: Settings | None = None

    @property
    def first(self) -> Row | None:
        """The Row where the models part, None where they do not."""
        return self.comparison.first

    @property
    def agreeing(self) -> list[Row]:
        """The rows that are computed before it and agree, of its stage and of those before."""
        before = computed(self.comparison.rows)
        return before[: before.index(self.first)] if self.first in before else before

    def __str__(self) -> str:
        c, first = self.comparison, self.first
        head = [f"A  {c.a}", f"B  {c.b}", "", c.summary, *(f"warning: {text}" for text in c.warnings)]
        settings = [] if self.settings is None else self.settings.lines(alone=False)
        if first is None:
            nothing = f"no difference that rounding in {c.dtype} does not explain"
            return "\n".join([*head, nothing, *settings])
        return "\n".join([*head, *self._place(first), *self._explanation(), *settings])

    def _place(self, first: Row) -> Iterator[str]:
        """Where the models part, in lines."""
        before = [r.name for r in self.agreeing if r.stage == first.stage]
        if before:
            yield f"agree before it: {_shortened(before, first.stage)}"
        size = first.size or 1.0
        yield (
            f"the first that differs: {first.stage} {first.name}, by {first.difference / size:.1e} of its"
            f" size, where rounding in {self.comparison.dtype} explains {first.explained / size:.1e}"
        )
        yield from (f"  {note}" for note in (first.note, first.missing or first.worst) if note)
        yield from self._missing()
        params = self._differing_parameters()
        if params:
            more = f" and {len(params) - 4} more" if len(params) > 4 else ""
            yield f"parameters that differ: {', '.join(params[:4])}{more}"

    def _missing(self) -> Iterator[str]:
        """The gradients that do not arrive, the nearest to the loss first, in lines."""
        missing = self.comparison.missing
        if len(missing) > 1 or (missing and missing[0] is not self.first):
            names = _shortened([r.name for r in missing], "gradient")
            yield f"missing, the nearest to the loss first: {names}"
            partly = [r for r in missing if r is not self.first and "but not" in r.missing]
            yield from (f"  {r.name}: {r.missing}" for r in partly[:SHOWN])

    def _explanation(self) -> Iterator[str]:
        """Why they part, in lines."""
        yield from (f"likely cause: {text}" for text in self.causes)
        if not self.causes and self.first in self.comparison.missing:
            yield (
                f"likely cause: the gradient is cut {self.comparison.cut}, by detach, no_grad, .data, a cast,"
                " or an edit in place"
            )
            return
        if not self.causes and self.first is not None and self.first.stage == "parameter":
            yield "all that is computed agrees: what differs in the parameters does not act on this batch"
            return
        if not self.causes:
            trained = (
                ", and the parameters differ: trained otherwise?" if self._differing_parameters() else ""
            )
            yield f"no likely cause: none of those that are known makes A give what B gives{trained}"
            return
        changed = f"with {'that' if len(self.causes) == 1 else 'those'} changed in A"
        if self.left is None:
            yield f"{changed}, everything agrees"
        else:
            yield f"{changed}, the first that differs is {self.left.stage} {self.left.name}"

    def _differing_parameters(self) -> list[str]:
        return [r.name for r in self.comparison.rows if r.stage == "parameter" and not r.agrees]


def _shortened(names: Sequence[str], stage: str) -> str:
    """A list of names, its middle left out where it is long."""
    if len(names) <= SHOWN:
        return ", ".join(names)
    return f"{', '.join(names[:3])}, … {', '.join(names[-2:])} ({len(names)} {stage}s)"


def _agrees(form: Form, run: Run, batch: Batch, dtype: np.dtype[Any]) -> bool:
    """Whether a form gives what a Run of another program holds."""
    limits = rounding.explained(form, *batch, dtype)
    return first(computed(rows(form.run(*batch), run, limits, dtype))) is None


def _compare(sides: Any, batch: Batch, dtype: str) -> tuple[Comparison, tuple[Run, Run], np.dtype[Any]]:
    """(Comparison, both Runs, the dtype whose rounding counts: the coarser of dtype and that of a file)."""
    a, b = sides
    runs = a.run(*batch, dtype), b.run(*batch, dtype)
    dtypes = [np.dtype(dtype), *(s.dtype for s in sides if isinstance(s, State))]
    resolution = max(dtypes, key=rounding.unit)
    clean = runs[0] if isinstance(a, Ours) and dtype == "float64" else None
    compared = rows(*runs, rounding.explained(a.form, *batch, resolution, clean), resolution)
    if not computed(compared):
        raise InputError(
            f"parity: {a.title} and {b.title} have no value in common, expected names that both know"
        )
    warnings = tuple(_warnings(sides, runs, batch))
    comparison = Comparison(a.title, b.title, resolution.name, compared, warnings, cut(compared, *runs))
    return comparison, runs, resolution


def _warnings(sides: Any, runs: tuple[Run, Run], batch: Batch) -> Iterator[str]:
    """Where a comparison says little."""
    for letter, side, run in zip("AB", sides, runs):
        uncalled = side.uncalled(run) if isinstance(side, Theirs) else []
        if uncalled:
            yield f"{letter} does not call {_shortened(uncalled, 'part')}: their values are not compared"
        unnamed = side.unnamed() if isinstance(side, Theirs) else []
        if unnamed:
            yield (
                f"{letter} has {_shortened(unnamed, 'parameter')}, for which numgpt has no name: not compared"
            )
    for letter, own, other in zip("AB", runs, runs[::-1]):
        alone = [name for name in own.params if other.params and name not in other.params]
        if alone:
            yield f"{letter} alone has {_shortened(alone, 'parameter')}: not compared"
    tokens, _ = batch
    if tokens.size > 1 and (tokens == tokens.flat[0]).all():
        yield "all tokens are the same: what depends on which token stands where does not show"
    places: dict[str, list[str]] = {}
    for stage, arrays in (("value", runs[0].values), ("gradient", runs[0].grads)):
        for name, array in arrays.items():
            what = degenerate(array) if stage == "value" or not np.any(array) else ""
            if what:
                places.setdefault(f"{stage}s that say little, each {what}", []).append(name)
    for what, names in places.items():
        yield f"{what}: {_shortened(names, 'name')}"


def _opened(
    things: Any, names: Any, call: Any, optimizers: Any, lr: float | None
) -> tuple[tuple[Any, Any], Settings]:
    """Both sides, and the settings in which they differ; a debug state is read with the other's config."""
    is_pair = isinstance(optimizers, tuple | list) and len(optimizers) == 2
    if not is_pair or (optimizers[0] is None) is not (optimizers[1] is None):
        raise InputError("parity: optimizers are not two, expected an AdamW of each side, or none")
    if lr is None:
        lr = next((float(o.param_groups[0]["lr"]) for o in optimizers if hasattr(o, "param_groups")), None)
    options = [{"names": names, "call": call, "optimizer": o, "lr": lr} for o in optimizers]
    if is_state(things[0]):
        things, options = things[::-1], options[::-1]
    a = opened(things[0], **options[0])
    b = opened(things[1], a.config, **options[1])
    settings = [side_settings(side, thing) for side, thing in zip((a, b), things)]
    known = [(title, own | of_optimizer(o["optimizer"], lr)) for (title, own), o in zip(settings, options)]
    if isinstance(b, Ours) and not isinstance(a, Ours):
        a, b, known = b, a, known[::-1]
    for name in ("n_embd", "n_layer"):
        if getattr(a.config, name) != getattr(b.config, name):
            raise InputError(
                f"parity: A and B have {name} {getattr(a.config, name)} and {getattr(b.config, name)},"
                " expected two models of the same size"
            )
    return (a, b), differing(*known)


def _config(model: Any) -> Config | None:
    """The Config that compare was given, as such or by a GPT."""
    if model is None or isinstance(model, Config):
        return model
    if not isinstance(model, GPT):
        raise InputError(f"parity: model is {type(model).__name__}, expected a GPT or a Config")
    return model.config
