"""Derivatives: the chapter of GPT that differentiates, by the Record of one forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import ArrayLike, NDArray

from ..architecture.config import Config
from ..architecture.parameters import Flat
from ..architecture.patterns import expect_some
from ..arguments import Count, Ids, checked_as
from ..layers.transformer import gpt
from ..layers.transformer import loss as loss_of_gpt
from ..layers.visibility import Visibility
from ..tokenizers import Tokenizer
from ..traces.recorded import Source, TracedRecord
from . import checks, differentiable


class Derivatives:
    """What GPT has of derivatives: those of its loss, those of its values, and all of them by name."""

    config: Config
    params: Flat
    seed: int
    tokenizer: Tokenizer | None
    served: Mapping[str, Any]

    @checked_as("GPT.loss_and_grads")
    def loss_and_grads(
        self,
        tokens: Ids,
        targets: Ids,
        *,
        step: int | tuple[int, ...] | None = None,
        count: Count | None = None,
        grads: Sequence[str] | str | None = None,
        out: Flat | None = None,
        add: bool = False,
        visibility: Visibility | None = None,
    ) -> tuple[NDArray[Any], Flat]:
        """The mean surprise at the targets in nats, and its gradient with respect to every parameter.

        Parameters
        ----------
        tokens, targets : integers (..., T)
            A negative target does not count.
        step : int or tuple of int, optional
            With the seed and the op's name, determines the dropout masks; None disables dropout.
        count : int, optional
            Divide by this instead of the number of targets that count.
        grads : patterns, optional
            Of which parameters: "h.1.mlp.*", in which * stands for any characters, dots too. A matrix that is
            not among them costs no product. All unless given.
        out : Flat, optional
            Receives the gradients; a new one unless given.
        add : bool
            Add to what out holds, to accumulate batches.
        visibility : numgpt.Visibility, optional
            As in a call of the model.

        Returns
        -------
        loss : array ()
        grads : Flat
            Name -> array, views of one flat buffer.

        Examples
        --------
        >>> import numgpt
        >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
        >>> loss, grads = model.loss_and_grads([[0, 1, 2]], [[1, 2, 3]])
        >>> grads["wte.weight"].shape
        (5, 4)
        """
        batch = checks.batch(self.config, self.params, tokens, targets, count)
        places = checks.gradient_places("loss_and_grads", self.params, grads, out)
        loss = differentiable.loss_and_grads(
            self, loss_of_gpt, batch, places, step=step, add=add, visibility=visibility
        )
        return loss, places

    @checked_as("GPT.vjp")
    def vjp(
        self,
        tokens: Ids,
        dvalues: Mapping[str, ArrayLike],
        *,
        grads: Sequence[str] | str | None = None,
        step: int | tuple[int, ...] | None = None,
        out: Flat | None = None,
        add: bool = False,
        visibility: Visibility | None = None,
    ) -> Flat:
        """Gradients of the sum of ⟨dvalue, value⟩ over named values: Jᵀ dvalue, added up.

        Parameters
        ----------
        tokens : integers (..., T)
        dvalues : mapping of name -> array
            The gradient that comes to each value from outside, of its shape; "lm_head" names the logits, or
            the step behind it where the model caps, scales or shifts them: "softcap", say.
        grads : sequence of str, optional
            Patterns such as "h.*.attn.*" of the parameters whose gradients are wanted; all unless given.
        step : int or tuple of int, optional
            As in loss_and_grads.
        out : Flat, optional
            Receives the gradients; a new one unless given.
        add : bool
            Add to what out holds.
        visibility : numgpt.Visibility, optional
            As in a call of the model.

        Returns
        -------
        Flat
            Name -> array, of those that are wanted.

        Raises
        ------
        InputError
            For a name that the forward does not file, a gradient of another shape or one that is not finite,
            and a pattern that fits no parameter.

        Examples
        --------
        >>> import numgpt, numpy as np
        >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
        >>> gradient = model.vjp([0, 1, 2], {"h.0.mlp.act": np.ones((3, 16))})
        >>> bool(gradient["h.0.mlp.c_fc.bias"].any()), bool(gradient["h.0.mlp.c_proj.bias"].any())
        (True, False)
        """
        ids = checks.beside(self.config, self.params, checks.tokens(self.config, tokens))
        given = differentiable.finite("vjp", dvalues, self.params.dtype)
        places = checks.gradient_places("vjp", self.params, grads, out)
        differentiable.vjp(self, ids, given, places, step=step, add=add, visibility=visibility)
        return places

    @checked_as("GPT.record")
    def record(
        self,
        tokens: Ids,
        targets: Ids | None = None,
        *,
        edit: Mapping[str, Any] | None = None,
        edit_grad: Mapping[str, Callable[[NDArray[Any]], ArrayLike]] | None = None,
        step: int | tuple[int, ...] | None = None,
        keep: Sequence[str] | str | None = None,
        visibility: Visibility | None = None,
    ) -> TracedRecord:
        """Run with every value kept and, with targets, every gradient.

        Parameters
        ----------
        tokens : integers (..., T)
        targets : integers (..., T), optional
            With them the backward runs too.
        edit : mapping of name -> function, optional
            Each is applied to that value in flight. The gradients are those of the edited model where the
            function acts on each entry by itself; for any other give a pair (function, transpose).
        edit_grad : mapping of name -> function, optional
            Each is applied to the gradient in flight.
        step : int or tuple of int, optional
            As in loss_and_grads.
        keep : patterns, optional
            Of which values and gradients alone, of a large model: ["h.*.attn.heads.probs"]. What the backward
            has read is let go then. All unless given; of the loss alone: "loss".
        visibility : numgpt.Visibility, optional
            As in a call of the model.

        Returns
        -------
        Record
            ``record.value[name]``, and ``record.grad[name]`` of every value and parameter. ``record.table()``
            is the index of what it holds, and ``record.trace()`` a Trace to save, to show and to compare.

        Raises
        ------
        InputError
            For an edit of a name that the forward does not file, and for patterns to keep of which there are
            none, or one that no name fits.

        Examples
        --------
        >>> import numgpt
        >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
        >>> record = model.record([0, 1], [1, 2], edit={"h.0.mlp.act": lambda a: 0 * a})
        >>> record.value["h.0.mlp.act"].any(), record.grad["h.0.mlp.act"].shape
        (np.False_, (2, 16))
        """
        run: Callable[..., Any]
        if targets is None:
            ids = checks.beside(self.config, self.params, checks.tokens(self.config, tokens))
            source = Source(gpt, {"tokens": ids}, tokenizer=self.tokenizer)
            run = differentiable.forwards
        else:
            ids, goals, count = checks.batch(self.config, self.params, tokens, targets)
            source = Source(loss_of_gpt, {"tokens": ids, "targets": goals}, count, self.tokenizer)
            run = differentiable.both_ways
        kept = [keep] if isinstance(keep, str) else keep
        if kept is not None:
            expect_some("keep", kept)
        record = TracedRecord(
            self.params,
            self.config,
            source=source,
            grads=self.params.like(),
            keep=True if kept is None else kept,
            edit=edit,
            edit_grad=edit_grad,
            served=self.served,
            visibility=checks.visibility(self.config, self.params, visibility, ids.shape),
            seed=self.seed,
            step=step,
        )
        run(self, record, source.layer, source.inputs)
        return record
