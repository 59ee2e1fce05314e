"""Continual learning: another task, without losing those of before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..architecture.parameters import Flat
from ..arguments import AtLeastZero, Count, checked
from ..errors import InputError
from ..layers.anchored import anchored
from ..model.gpt import GPT
from ..training.objective import Batch, expect_batch
from . import order


class Anchor:
    """Where the parameters of a model are now, and how stiff each is held there.

    Parameters
    ----------
    model : GPT
        As it is when a task is learned; its parameters are copied.
    stiffness : mapping of name -> array, optional
        Such as calculus.fisher_diagonal gives: elastic weight consolidation. 1 for each number unless given:
        L2 towards where the parameters are.

    Raises
    ------
    InputError
        For a name that the model lacks, another shape, and a stiffness that is negative or not finite.
    """

    @np.errstate(under="ignore")  # what underflows is 0, whatever the caller's NumPy raises
    @checked
    def __init__(self, model: GPT, stiffness: Mapping[str, ArrayLike] | None = None) -> None:
        floats = model.params.shapes
        self.centre = Flat(floats, model.params.dtype, model.params.flat.copy())
        self.stiffness = self.centre.like()
        if stiffness is None:
            self.stiffness.flat[:] = 1
            return
        for name, given in stiffness.items():
            array = np.asarray(given)
            if name not in floats or array.shape != floats[name]:
                expected = f"shape {floats[name]}" if name in floats else "a parameter of the model"
                raise InputError(
                    f"Anchor: stiffness has {name} of shape {array.shape}, expected {expected}: give what"
                    " calculus.fisher_diagonal gives of this model"
                )
            if not (np.isfinite(array).all() and (array >= 0).all()):
                raise InputError(f"Anchor: stiffness of {name} is negative or not finite, expected 0 or more")
            self.stiffness[name] = array


class Anchored:
    """An objective with springs to where parameters were: L + ½ λ Σ_k Σ_i f_ki (θ_i − c_ki)².

    Held-out losses are those of the objective alone.

    Parameters
    ----------
    objective : object with batch(step, n)
        What is learned now.
    anchors : sequence of Anchor
        One for each task that is to be kept.
    weight : float
        λ.

    Examples
    --------
    >>> import numgpt
    >>> from numgpt import tuning
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
    >>> class Copy:
    ...     def batch(self, step, n):
    ...         x = numgpt.random.generator(0, step, n).integers(0, 5, (2, 4))
    ...         return (x, x), numgpt.layers.transformer.loss, x.size
    >>> fisher = numgpt.calculus.fisher_diagonal(model, [[0, 1, 2, 3]])
    >>> objective = tuning.Anchored(Copy(), [tuning.Anchor(model, fisher)], weight=100.0)
    >>> trainer = numgpt.Trainer(model, None, numgpt.Training(steps=2), objective=objective)
    >>> trainer.run()
    """

    @checked
    def __init__(self, objective: Any, anchors: Sequence[Anchor], weight: AtLeastZero) -> None:
        self.objective = objective
        self.anchors = list(anchors)
        self.weight = weight
        for name in (
            "source",
            "recipe",
            "corpus",
            "per_iteration",
            "held_out",
            "told",
            "state",
            "load_state",
        ):
            if hasattr(objective, name):
                setattr(self, name, getattr(objective, name))
        held = [flat.flat for a in anchors for flat in (a.centre, a.stiffness)]
        self.digest = order.digest((getattr(objective, "digest", ""), weight), held)

    @checked
    def batch(self, step: Count, n: Count) -> Batch:
        """The objective's, whose layer has a share of the springs: those of a step add up to all of them."""
        batch = expect_batch(self.objective, self.objective.batch(step, n))
        pairs = [(a.centre, a.stiffness) for a in self.anchors]
        share = batch.count / batch.divisor
        layer = anchored(batch.layer, pairs, self.weight * share)
        return Batch(batch.inputs, layer, batch.count, batch.of, batch.visibility)
