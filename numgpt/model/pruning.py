"""Pruning: the chapter of GPT that gives it with fewer weights, neurons or heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..architecture.additions import LoRA, pruned_by, quantized_by
from ..architecture.config import Config
from ..architecture.parameters import Flat
from ..architecture.patterns import matching
from ..architecture.pruned import CRITERIA, UNITS, WITHIN, Pruned, prunable
from ..arguments import Ids, checked_as
from ..errors import InputError
from ..pruning import criteria, masks, smaller, units
from . import checks

Array = NDArray[Any]
ALL = "h.*.attn.*", "h.*.mlp.*"
HEADLESS = "expected none: model.merged() has its matrices"


class Pruning:
    """What GPT has of pruning."""

    config: Config
    params: Flat
    seed: int
    additions: tuple[Any, ...]
    replaced: Mapping[str, Any]

    @checked_as("GPT.pruned")
    def pruned(
        self,
        sparsity: float | None = None,
        criterion: str = "magnitude",
        data: Ids | None = None,
        pattern: str | None = None,
        structured: str | None = None,
        within: str | None = None,
        targets: Sequence[str] = ALL,
    ) -> Self:
        """The same model without its least weights, neurons or heads, and parameters of its own.

        Weights are masked: the model keeps its shape, and what is masked stays 0 while the rest is trained.
        Neurons and heads are taken out: the model is smaller, and computes what it would with their outputs
        at 0.

        Parameters
        ----------
        sparsity : float
            The share that goes, more than 0 and less than 1; a pattern says it itself.
        criterion : "magnitude", "gradient" or "fisher"
            By which the least are found; the last two ask for data. numgpt/pruning/criteria.py derives them.
        data : integers (B, T + 1), optional
            Rows of text. Of each the loss of its last T tokens is differentiated.
        pattern : str, optional
            "2:4" leaves at most 2 of each 4 weights of an output that lie side by side.
        structured : "heads" or "neurons", optional
            What goes; single weights unless given. Heads that share keys and values go together.
        within : "part" or "model", optional
            Whether the share is that of each matrix, or each layer's heads or neurons; or of all together.
            The first unless given, but the second for heads and neurons by gradient or fisher: what
            numgpt/pruning/README.md measures as the better.
        targets : patterns
            Of the matrices whose weights are masked. A layer's heads or neurons go where c_proj is one.

        Returns
        -------
        GPT

        Raises
        ------
        InputError
            For a share out of its range, what would leave no head, a pattern that does not divide, a
            criterion without its data, and a model that is quantized or has adapters.

        Examples
        --------
        >>> import numgpt
        >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=2, n_embd=8))
        >>> masked = model.pruned(0.5)
        >>> int((masked.params["h.0.mlp.c_fc.weight"] == 0).sum())
        128
        >>> model.pruned(0.5, structured="heads").config.n_head
        1
        """
        self._expect_prunable()
        sparsity = _share(sparsity, pattern, structured)
        within = _within(within, criterion, pattern, structured)
        rows = self._rows(criterion, data)
        if structured is not None:
            return self._with_fewer(structured, sparsity, criterion, rows, within, targets)
        found = prunable(self.config)
        old = pruned_by(self.additions)
        names = matching("pruned: targets", targets, found) if found else ()
        if not names:
            raise InputError("pruned: the model has no matrices to prune, expected some: it has no layers")
        if old is not None:
            names = tuple(name for name in found if name in names or name in old.parts(self.config))
        scores = self._scores([f"{name}.weight" for name in names], criterion, rows)
        if pattern is not None:
            chosen = masks.by_pattern(scores, *masks.parsed(pattern))
        else:
            self._expect_more(scores, sparsity)
            chosen = masks.by_share(scores, sparsity, within)
        rest = tuple(a for a in self.additions if not isinstance(a, Pruned))
        additions = (Pruned(_shortest(names, found)), *rest)
        here = self.params.to("reference")
        return self._as(self.config, masks.with_masks(here, self.config, additions, chosen), additions)

    def _expect_prunable(self) -> None:
        """Raise InputError for a model whose weights are not all there is to its matrices."""
        if quantized_by(self.additions) is not None:
            raise InputError(
                "pruned: the model is quantized, expected floats: prune first, or model.dequantized()"
            )
        if any(isinstance(a, LoRA) for a in self.additions):
            raise InputError("pruned: the model has an adapter, expected none: model.merged()")
        if self.replaced:
            raise InputError(
                f"pruned: other ops are served at {', '.join(self.replaced)}, expected none: prune"
                " GPT(model.config, params=...) of the model's own parameters"
            )

    def _rows(self, criterion: str, data: Ids | None) -> Array | None:
        """The rows of data, checked; None where the criterion asks for none."""
        if criterion not in CRITERIA:
            raise InputError(f"pruned: criterion is {criterion!r}, expected one of {', '.join(CRITERIA)}")
        if data is None:
            if criterion in criteria.WITH_DATA:
                raise InputError(
                    f"pruned: criterion is {criterion} without data, expected rows of text: give data, or"
                    " choose magnitude"
                )
            return None
        if criterion not in criteria.WITH_DATA:
            raise InputError(f"pruned: data is given with {criterion}, which needs none: leave it out")
        ids = np.atleast_2d(checks.tokens(self.config, data, window=False))
        if ids.shape[1] < 2:
            raise InputError("pruned: data has rows of 1 token, expected 2 at least: the next is predicted")
        checks.tokens(self.config, ids[:, :-1])
        return ids.reshape(-1, ids.shape[-1])

    def _scores(self, names: Sequence[str], criterion: str, rows: Array | None) -> dict[str, Array]:
        """Name of a weight -> the scores of its entries; below all others where one is masked already."""
        params = self.params.to("reference")
        if rows is None:
            scores = {name: np.abs(params[name]) for name in names}
        else:
            scores = criteria.from_data(cast(Any, self), criterion, names, rows)
        for name in names:
            mask = params.get(f"{name}_mask")
            if mask is not None:
                scores[name] = np.where(mask != 0, scores[name], masks.GONE)
        return scores

    def _expect_more(self, scores: Mapping[str, Array], sparsity: float) -> None:
        """Raise InputError where more is masked already than is to be."""
        whole = sum(s.size for s in scores.values())
        gone = sum(int((s == masks.GONE).sum()) for s in scores.values())
        if gone > round(sparsity * whole):
            raise InputError(
                f"pruned: sparsity is {sparsity:g}, expected more than {gone / whole:.4g}, the share that is"
                " masked already: model.merged() has no masks"
            )

    def _with_fewer(
        self,
        kind: str,
        sparsity: float,
        criterion: str,
        rows: Array | None,
        within: str,
        targets: Sequence[str],
    ) -> Self:
        """A smaller model, of the units of a kind that stay."""
        if pruned_by(self.additions) is not None:
            raise InputError(f"pruned: the model has masks, {HEADLESS}")
        every = units.units_of(self.config, kind)
        names = matching("pruned: targets", targets, prunable(self.config))
        some = [u for u in every if u.output.removesuffix(".weight") in names]
        if not some:
            raise InputError(
                f"pruned: targets has no c_proj of {kind}, expected such as {every[0].output[:-7]}"
            )
        params = self.params.to("reference")
        if rows is None:
            scores = [units.magnitudes(u, params) for u in some]
        else:
            gates = partial(_gates, {u.output: u for u in some})
            found = criteria.from_data(cast(Any, self), criterion, [u.output for u in some], rows, gates)
            scores = [found[u.output] for u in some]
        kept = units.left(some, scores, sparsity, within)
        config = smaller.smaller_config(self.config, some, kept)
        return self._as(
            config, smaller.smaller_params(params, config, self.additions, some, kept), self.additions
        )

    def _as(self, config: Config, params: Flat, additions: tuple[Any, ...]) -> Self:
        """A model of another form, where this one lies."""
        params = params.to("cupy") if engine.on_gpu(self.params.flat) else params
        own: Any = self
        given = own.tokenizer, params, self.replaced, additions, own.template
        return cast(Self, type(own)(config, self.seed, params.dtype, *given))


def _share(sparsity: float | None, pattern: str | None, structured: str | None) -> float:
    """The share that goes; InputError where it is missing, out of its range, or said twice."""
    if structured is not None and structured not in UNITS:
        raise InputError(f"pruned: structured is {structured!r}, expected {' or '.join(UNITS)}")
    if pattern is not None:
        n, m = masks.parsed(pattern)
        if structured is not None:
            raise InputError(
                f"pruned: pattern is {pattern} with structured {structured}, expected one: a pattern masks"
                " single weights"
            )
        if sparsity not in (None, 1 - n / m):
            raise InputError(
                f"pruned: sparsity is {sparsity:g} with the pattern {pattern}, expected {1 - n / m:g}, as it"
                " has: leave it out"
            )
        return 1 - n / m
    if sparsity is None:
        raise InputError("pruned: sparsity is missing, expected more than 0 and less than 1")
    if not 0 < sparsity < 1:
        raise InputError(f"pruned: sparsity is {sparsity:g}, expected more than 0 and less than 1")
    return sparsity


def _within(within: str | None, criterion: str, pattern: str | None, structured: str | None) -> str:
    """Where the share is taken."""
    if within is None:
        return "model" if structured is not None and criterion in criteria.WITH_DATA else "part"
    if within not in WITHIN:
        raise InputError(f"pruned: within is {within!r}, expected {' or '.join(WITHIN)}")
    if pattern is not None and within == "model":
        raise InputError(f"pruned: within is model with the pattern {pattern}, expected part: leave it out")
    return within


def _gates(of_output: Mapping[str, units.Units], name: str, products: Array) -> Array:
    return units.gates(of_output[name], products)


def _shortest(names: Sequence[str], found: Mapping[str, Any]) -> tuple[str, ...]:
    """Patterns of some of the matrices that are found: GPT's own where it is all of them."""
    return ALL if len(names) == len(found) else tuple(names)
