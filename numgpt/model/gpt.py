"""GPT: a Config, its parameters and perhaps a tokenizer, with everything that one does with them."""

import operator
from pathlib import Path

import numpy as np

from .. import engine
from ..architecture.parameters import initialise
from ..errors import InputError
from ..interchange import checkpoint, huggingface, llmc
from ..layers.record import Record
from ..layers.transformer import gpt_forward, loss_backward, loss_forward
from ..ops.op import check_ids
from . import generate

DTYPES = ("float32", "float64", "longdouble", "complex128")


class GPT:
    """A GPT with parameters drawn from a seed.

    config: a Config. dtype: float32, float64, longdouble or complex128.
    params: mapping name -> array, writable views of one flat buffer. They lie in the host's memory, or on the
    GPU where the cupy engine is in use or .to("cupy") moved them; there lie then logits, losses and gradients
    too. Tokens are given in the host's memory, where they are checked.
    """

    def __init__(self, config, seed=0, dtype="float32", tokenizer=None, params=None):
        try:
            known = dtype is not None and np.dtype(dtype) in map(np.dtype, DTYPES)
        except TypeError:
            known = False
        if not known:
            raise InputError(f"GPT: dtype {dtype} is unknown, expected one of {', '.join(DTYPES)}")
        self.config, self.seed, self.tokenizer = config, operator.index(seed), tokenizer
        self.params = _here(initialise(config, seed, dtype)) if params is None else params

    def __call__(self, tokens):
        """Logits of the token after each position.  tokens (..., T) integers → (..., T, V)"""
        tokens = self._beside(self._tokens(tokens))
        with engine.session(self.params.dtype):
            return gpt_forward(self._record(), tokens)

    def loss(self, tokens, targets, count=None):
        """The mean surprise at the targets in nats, without gradients.  tokens and targets (..., T) → ()"""
        tokens, targets, count = self._batch(tokens, targets, count)
        with engine.session(self.params.dtype):
            return loss_forward(self._record(), tokens, targets, count)

    def loss_and_grads(self, tokens, targets, *, step=None, count=None, out=None, add=False):
        """The mean surprise at the targets in nats, and its gradient with respect to every parameter.

        tokens and targets (..., T) integers; a negative target does not count.
        step: the training step, from which with the seed and the names the masks of dropout are drawn; None:
        no dropout.
        count: divide by this instead of the number of counted targets; add: onto what out holds (for
        accumulation). Returns (loss, grads), grads a mapping name -> array, views of one flat buffer: out if
        given, else a new one.
        """
        tokens, targets, count = self._batch(tokens, targets, count)
        grads = self.params.like() if out is None else out
        record = self._record(grads=grads, add=add, step=step, spare=True)
        with engine.session(self.params.dtype):
            loss = loss_forward(record, tokens, targets, count)
            loss_backward(record, np.ones_like(loss))
        record.finish_backward()
        return loss, grads

    def record(self, tokens, targets=None, *, edit=None, edit_grad=None, step=None):
        """Run with everything kept: record.value[name] and, with targets, record.grad[name] of every value
        and parameter.

        edit: name -> a function of that value, applied in flight. The gradients are those of the edited model
        where the function acts on each entry by itself; for any other give a pair (function, transpose).
        edit_grad: name -> a function of the gradient, applied in flight.
        """
        tokens, targets, count = (
            (self._beside(self._tokens(tokens)), None, None)
            if targets is None
            else self._batch(tokens, targets, None)
        )
        record = self._record(grads=self.params.like(), keep=True, edit=edit, edit_grad=edit_grad, step=step)
        with engine.session(self.params.dtype):
            if targets is None:
                gpt_forward(record, tokens)
                record.check_names()
            else:
                loss = loss_forward(record, tokens, targets, count)
                record.check_names()
                loss_backward(record, np.ones_like(loss))
        return record

    def generate(self, tokens, max_new_tokens=100, **sampling):
        """Continue each row of tokens (B, T) → (B, T + max_new_tokens).

        sampling: temperature, top_k, top_p, seed, slide, as in numgpt.generate.stream.
        """
        tokens = self._tokens(tokens, window=False)
        if tokens.ndim > 2:
            raise InputError(f"tokens: have shape {tokens.shape}, expected (B, T) or (T) to continue")
        new = list(generate.stream(self, np.atleast_2d(tokens), max_new_tokens, **sampling))
        rows = np.concatenate([np.atleast_2d(tokens), *(ids[:, None] for ids in new)], axis=1)
        return rows.reshape(*tokens.shape[:-1], -1)

    def save(self, folder, layout="numgpt"):
        """Write config, parameters and tokenizer to a folder, whole or not at all; layout "hf": as
        transformers reads a GPT-2.
        """
        if layout not in ("numgpt", "hf"):
            raise InputError(f"save: layout {layout!r} is unknown, expected numgpt or hf")
        (checkpoint if layout == "numgpt" else huggingface).save(folder, self)

    @classmethod
    def load(cls, folder):
        """The model of a checkpoint's folder, of a run's (its best, else its last), or of a GPT-2 that
        transformers saved.

        folder may be "hf:" and a name on the Hugging Face hub, where huggingface_hub is installed, or a
        model's file of llm.c.
        """
        if Path(folder).is_file():
            found = llmc.load(folder)
        else:
            theirs = huggingface.find(folder)
            found = checkpoint.load(folder) if theirs is None else huggingface.load(theirs)
        return cls(**found | {"params": _here(found["params"])})

    def to(self, name):
        """The same model where the engine of a name computes: on the GPU for "cupy", in the host's memory for
        the others.

        Itself where it lies there, else a model with parameters of its own. The engine in use stays what it
        is.
        """
        params = self.params.to(name)
        return (
            self
            if params is self.params
            else type(self)(self.config, self.seed, params.dtype, self.tokenizer, params)
        )

    def astype(self, dtype):
        """The same model in another dtype, with parameters of its own."""
        return type(self)(self.config, self.seed, dtype, self.tokenizer, self.params.astype(dtype))

    @property
    def n_params(self):
        """The number of parameters."""
        return self.params.flat.size

    def _record(self, **options):
        return Record(self.params, self.config, seed=self.seed, **options)

    def _tokens(self, tokens, window=True):
        tokens = _array("tokens", tokens)
        if tokens.ndim == 0 or tokens.size == 0:
            raise InputError(f"tokens: have shape {tokens.shape}, expected (B, T) with at least one token")
        check_ids("tokens", tokens, self.config.vocab_size)
        if window and tokens.shape[-1] > self.config.block_size:
            raise InputError(
                f"tokens: {tokens.shape[-1]} positions, expected at most block_size {self.config.block_size}:"
                " give the last of them"
            )
        return tokens.astype(np.int64, copy=False)

    def _beside(self, ids, negative=False):
        """Checked ids where the parameters lie."""
        return engine.checked(ids, self.params.flat, self.config.vocab_size, negative)

    def _batch(self, tokens, targets, count):
        """Tokens and targets, checked, where the parameters lie; on the GPU with their count, for which
        nothing has to wait then.
        """
        tokens = self._tokens(tokens)
        targets = self._targets(tokens, targets)
        if count is None and engine.on_gpu(self.params.flat):
            count = int((targets >= 0).sum())
        return self._beside(tokens), self._beside(targets, negative=True), count

    def _targets(self, tokens, targets):
        targets = _array("targets", targets)
        if targets.shape != np.shape(tokens):
            raise InputError(
                f"targets: have shape {targets.shape}, expected {np.shape(tokens)} as the tokens"
            )
        check_ids("targets", targets, self.config.vocab_size, negative=True)
        return targets

    def __repr__(self):
        return f"<GPT {self.n_params:,} parameters, {self.params.dtype}: {self.config}>"


def _here(params):
    """Parameters where the engine in use computes; those with a float that the GPU has not stay where they
    are.
    """
    return params.to("cupy") if engine.is_cupy() and params.dtype in engine.ON_GPU else params


def _array(who, ids):
    if engine.on_gpu(ids):
        raise InputError(
            f"{who}: lie on the GPU, expected them in the host's memory, where they are checked: give"
            f" {who}.get()"
        )
    try:
        return np.asarray(ids)
    except ValueError as error:
        raise InputError(
            f"{who}: rows differ in length, expected (B, T): pad the short ones, with targets of -1"
        ) from error
