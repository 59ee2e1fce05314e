"""Steering: a direction that is added to the stream while a model reads and writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import engine
from ..argument_kinds import as_array
from ..arguments import Count, checked
from ..errors import InputError
from ..model.gpt import GPT
from ..ops import Op
from .prompts import each, token_rows
from .runs import run

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Steering:
    """A direction of the stream after a layer: vector (C), and how many texts it is the difference of."""

    layer: int
    vector: Array
    toward: int
    away: int


@checked
def steering_vector(model: GPT, toward: Any, away: Any, layer: Count, *, at: int = -1) -> Steering:
    """The difference of means: v = ⟨x_l of toward⟩ − ⟨x_l of away⟩, at one token of each text.

    Parameters
    ----------
    model : GPT
    toward, away : str or ids, or a sequence of them, of any length
    layer : int
        After which the stream is read.
    at : int
        The token, counted from the end where it is negative.

    Returns
    -------
    Steering

    Notes
    -----
    Source: Turner et al. 2023; the mean over many pairs as in Rimsky et al. 2024. What it does not show: that
    the model has such a concept. v holds all in which the two sets differ, length and first words among it.

    Examples
    --------
    >>> import numgpt
    >>> from numgpt.interpretability import steering_vector
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=2, n_head=1, n_embd=4))
    >>> steering_vector(model, [[0, 1], [0, 2]], [[0, 3], [0, 4]], 0).vector.shape
    (4,)
    """
    who = "steering_vector"
    _expect_layer(who, model, layer)
    means, counts = [], []
    for which, prompts in (("toward", toward), ("away", away)):
        values = []
        for prompt in each(prompts):
            ids = token_rows(f"{who}: {which}", model, prompt)
            if not -ids.shape[1] <= at < ids.shape[1]:
                raise InputError(f"{who}: at is {at}, expected {-ids.shape[1]} to {ids.shape[1] - 1}")
            value = run(model, ids, -1, [_name(layer)]).value[_name(layer)]
            values.append(engine.home(value)[0, at].real.astype(np.float64))
        means.append(np.mean(values, axis=0))
        counts.append(len(values))
    return Steering(layer, means[0] - means[1], *counts)


@checked
def steered(
    model: GPT, vector: ArrayLike | Steering, layer: Count | None = None, *, scale: float = 1.0
) -> GPT:
    """The same model, to whose stream a vector is added after a layer, at every token: x_l + scale v.

    Parameters
    ----------
    model : GPT
    vector : Steering, or array (C,)
    layer : int
        After which it is added; that of the Steering unless given.
    scale : float
        Negative to go the other way.

    Returns
    -------
    GPT
        It shares the parameters, and generates, records and differentiates as any model does, steered. It
        cannot be saved: no file has a place for what it adds.

    Notes
    -----
    What it does not show: that the model was steered by what the vector is called. A vector that is large
    beside the stream makes any model say odd things.

    Examples
    --------
    >>> import numgpt, numpy as np
    >>> from numgpt.interpretability import steered
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4), seed=0)
    >>> other = steered(model, np.full(4, 0.0), 0)
    >>> bool((other([0, 1, 2]) == model([0, 1, 2])).all())
    True
    """
    who = "steered"
    if isinstance(vector, Steering):
        layer, vector = vector.layer if layer is None else layer, vector.vector
    if layer is None:
        raise InputError(f"{who}: layer is None, expected the layer after which the vector is added")
    _expect_layer(who, model, layer)
    v = as_array(f"{who}: vector", vector, f"numbers ({model.config.n_embd},)")
    if v.shape != (model.config.n_embd,) or v.dtype.kind not in "biuf" or not np.isfinite(v).all():
        raise InputError(
            f"{who}: vector is {v.dtype} of shape {v.shape}, expected finite numbers ({model.config.n_embd},)"
        )
    if _name(layer) in model.replaced:
        raise InputError(f"{who}: {_name(layer)} is served already, expected the model's own sum there")
    return GPT(
        model.config,
        model.seed,
        tokenizer=model.tokenizer,
        params=model.params,
        served={**model.replaced, _name(layer): _added(scale * v.astype(np.float64))},
        additions=model.additions,
        template=model.template,
    )


def _name(layer: int) -> str:
    """The sum with which a block ends, to which the vector is added."""
    return f"h.{layer}.out"


def _expect_layer(who: str, model: GPT, layer: int) -> None:
    if model.config.norm_position == "post":
        raise InputError(
            f"{who}: the model normalises the sum that ends a layer, norm_position post, expected one whose"
            " stream is that sum"
        )
    if layer >= model.config.n_layer:
        raise InputError(f"{who}: layer is {layer}, expected 0 to {model.config.n_layer - 1}")


def _added(v: Array) -> Op:
    """The residual sum, and v: z = x + y + v, whose gradient passes to x and y as that of a sum does."""

    def steered_sum_forward(x: Any, y: Any) -> tuple[Any, tuple[()]]:
        """z = x + y + v"""
        return x + y + engine.beside(v.astype(x.real.dtype), x), ()

    def steered_sum_backward(dz: Any, saved: tuple[()]) -> tuple[Any, Any]:
        """dx = dz, dy = dz: what is added does not depend on them."""
        return dz, dz

    return Op("..., ... -> ...", steered_sum_forward, steered_sum_backward, saves="")
