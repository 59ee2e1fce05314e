"""GPT: a Config, its parameters and perhaps a tokenizer, with everything that one does with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import engine
from ..architecture.config import Config
from ..architecture.parameters import Flat, initialise, shapes
from ..argument_kinds import as_array
from ..arguments import Count, HeldAttributes, Ids, checked
from ..errors import InputError
from ..interchange import checkpoint, huggingface, llmc
from ..layers.record import Record
from ..layers.transformer import gpt_forward, loss_backward, loss_forward
from ..ops.op import check_ids
from ..tokenizers import Tokenizer
from . import generate

DTYPES = ("float32", "float64", "longdouble", "complex128")
LAYOUTS = {"numgpt": checkpoint, "hf": huggingface}


class GPT(HeldAttributes):
    """A GPT with parameters drawn from a seed.

    Parameters
    ----------
    config : Config
        The model's shape.
    seed : int
        Draws the first parameters, and dropout's masks in training.
    dtype : "float32", "float64", "longdouble" or "complex128", optional
        That of params where they are given, else float32.
    tokenizer : Tokenizer, optional
        Saved and loaded with the model, which itself reads and writes ids only.
    params : Flat, optional
        Parameters to use as they are, instead of drawing them.

    Attributes
    ----------
    params : Flat
        Name -> array, writable views of one flat buffer.

    Notes
    -----
    Parameters lie in the host's memory, or on the GPU where the cupy engine is in use or ``.to("cupy")``
    moved them; logits, losses and gradients lie where they do. Tokens are given in the host's memory, where
    they are checked.

    ``copy.deepcopy`` and pickle give a model of its own, and an optimizer that is copied with it,
    ``copy.deepcopy((model, optimizer))``, goes on with the copy. ``copy.copy`` shares the parameters.

    Examples
    --------
    >>> import numgpt
    >>> config = numgpt.Config(vocab_size=5, block_size=4, n_layer=2, n_head=2, n_embd=8)
    >>> model = numgpt.GPT(config, seed=0, dtype="float64")
    >>> model.n_params
    1832
    >>> model([[0, 1, 2, 3]]).shape
    (1, 4, 5)
    """

    @checked
    def __init__(
        self,
        config: Config,
        seed: int = 0,
        dtype: DTypeLike | None = None,
        tokenizer: Tokenizer | None = None,
        params: Flat | None = None,
    ) -> None:
        given = np.dtype("float32") if params is None else params.dtype
        dtype = given if dtype is None else dtype
        _expect_known(dtype)
        self.config = config
        self.seed = seed
        self.tokenizer = tokenizer
        if params is not None:
            _expect_like("GPT: params", params, shapes(config))
            if np.dtype(dtype) != given:
                raise InputError(
                    f"GPT: params are {given}, expected {np.dtype(dtype)} as dtype says: leave dtype out, or"
                    " give params.astype(dtype)"
                )
        self.params: Flat = _here(initialise(config, seed, dtype)) if params is None else params

    @checked
    def __call__(self, tokens: Ids) -> NDArray[Any]:
        """Logits of the token after each position.

        Parameters
        ----------
        tokens : integers (..., T)
            At most block_size positions.

        Returns
        -------
        array (..., T, V)

        Raises
        ------
        InputError
            For ids that are not in the vocabulary, rows of different length, and too many positions.
        """
        ids = self.beside(self.check_tokens(tokens))
        with engine.session(self.params.dtype):
            return gpt_forward(self._record(), ids)

    @checked
    def loss(self, tokens: Ids, targets: Ids, count: Count | None = None) -> NDArray[Any]:
        """The mean surprise at the targets in nats, without gradients.

        Parameters
        ----------
        tokens, targets : integers (..., T)
            A negative target does not count.
        count : int, optional
            Divide by this instead of the number of targets that count.

        Returns
        -------
        array ()

        Examples
        --------
        >>> import numgpt
        >>> model = numgpt.GPT(numgpt.Config(vocab_size=8, block_size=4, n_layer=1, n_head=1, n_embd=4))
        >>> round(float(model.loss([0, 1, 2], [1, 2, 3])), 1)  # near ln 8, a uniform guess
        2.1
        """
        ids, wanted, count = self._batch(tokens, targets, count)
        with engine.session(self.params.dtype):
            return loss_forward(self._record(), ids, wanted, count)

    @checked
    def loss_and_grads(
        self,
        tokens: Ids,
        targets: Ids,
        *,
        step: int | tuple[int, ...] | None = None,
        count: Count | None = None,
        out: Flat | None = None,
        add: bool = False,
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
        out : Flat, optional
            Receives the gradients; a new one unless given.
        add : bool
            Add to what out holds, to accumulate batches.

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
        ids, wanted, count = self._batch(tokens, targets, count)
        if out is not None:
            self._expect_gradients(out)
        grads = self.params.like() if out is None else out
        # Nobody else sees this record's values, so the backward may write over them: spare.
        record = self._record(grads=grads, add=add, step=step, spare=True)
        with engine.session(self.params.dtype):
            loss = loss_forward(record, ids, wanted, count)
            loss_backward(record, np.ones_like(loss))
        record.finish_backward()
        return loss, grads

    @checked
    def record(
        self,
        tokens: Ids,
        targets: Ids | None = None,
        *,
        edit: Mapping[str, Any] | None = None,
        edit_grad: Mapping[str, Callable[[NDArray[Any]], ArrayLike]] | None = None,
        step: int | tuple[int, ...] | None = None,
    ) -> Record:
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

        Returns
        -------
        Record
            ``record.value[name]``, and ``record.grad[name]`` of every value and parameter.

        Raises
        ------
        InputError
            For an edit of a name that the forward does not file.

        Examples
        --------
        >>> import numgpt
        >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
        >>> record = model.record([0, 1], [1, 2], edit={"h.0.mlp.act": lambda a: 0 * a})
        >>> record.value["h.0.mlp.act"].any(), record.grad["h.0.mlp.act"].shape
        (np.False_, (2, 16))
        """
        record = self._record(grads=self.params.like(), keep=True, edit=edit, edit_grad=edit_grad, step=step)
        if targets is None:
            ids = self.beside(self.check_tokens(tokens))
            with engine.session(self.params.dtype):
                gpt_forward(record, ids)
            record.check_names()
            return record
        ids, wanted, count = self._batch(tokens, targets, None)
        with engine.session(self.params.dtype):
            loss = loss_forward(record, ids, wanted, count)
            record.check_names()
            loss_backward(record, np.ones_like(loss))
        return record

    @checked
    def generate(self, tokens: Ids, max_new_tokens: Count = 100, **sampling: Any) -> NDArray[np.int64]:
        """Continue each row of tokens.

        Parameters
        ----------
        tokens : integers (B, T) or (T)
            A prompt may be longer than block_size: the model sees its end.
        max_new_tokens : int
        **sampling
            temperature, top_k, top_p, seed, slide and among, as in numgpt.model.generate.stream.

        Returns
        -------
        integers (B, T + max_new_tokens), or (T + max_new_tokens)
            The prompt and what follows it.

        Examples
        --------
        >>> import numgpt
        >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
        >>> model.generate([[0, 1], [2, 3]], max_new_tokens=6, top_k=3, seed=1).shape
        (2, 8)
        """
        ids = self.check_tokens(tokens, window=False)
        if ids.ndim > 2:
            raise InputError(f"tokens: have shape {ids.shape}, expected (B, T) or (T) to continue")
        rows = np.atleast_2d(ids)
        columns = [new[:, None] for new in generate.stream(self, rows, max_new_tokens, **sampling)]
        return np.concatenate([rows, *columns], axis=1).reshape(*ids.shape[:-1], -1)

    @checked
    def save(self, folder: str | PathLike[str], layout: str = "numgpt") -> None:
        """Write config, parameters and tokenizer to a folder, whole or not at all.

        Parameters
        ----------
        folder : path
            A new folder, or one that holds a checkpoint to replace; not one of a run.
        layout : "numgpt" or "hf"
            "hf" writes what transformers reads as a GPT-2.

        Raises
        ------
        InputError
            Where the folder holds something else, belongs to a run, or has a tokenizer that the model lacks;
            where the layout has no place for what the model is; where load would refuse it, for NaN, infinity
            or a tokenizer with more tokens than the model has. Nothing is written then.
        """
        if layout not in LAYOUTS:
            raise InputError(f"save: layout {layout!r} is unknown, expected {' or '.join(LAYOUTS)}")
        checkpoint.expect_no_run(folder)
        LAYOUTS[layout].save(folder, self)

    @classmethod
    @checked
    def load(cls, folder: str | PathLike[str], dtype: DTypeLike | None = None) -> GPT:
        """The model of a checkpoint, of a run, of transformers or of llm.c.

        Parameters
        ----------
        folder : path or str
            A checkpoint's folder; a run's, of which the best checkpoint is read, or the last where there is
            no best; the folder of a GPT-2 that transformers saved; a model's file of llm.c; or "hf:" and a
            name on the Hugging Face hub, where huggingface_hub is installed.
        dtype : "float32", "float64", "longdouble" or "complex128", optional
            Of the parameters; that of the file unless given.

        Raises
        ------
        InputError
            Where none of these is there, or a file is not as its config promises.

        Examples
        --------
        >>> import numgpt, tempfile
        >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(folder)
        ...     again = numgpt.GPT.load(folder)
        ...     double = numgpt.GPT.load(folder, dtype="float64")
        >>> bool((again.params.flat == model.params.flat).all()), double.params.dtype
        (True, dtype('float64'))
        """
        if dtype is not None:
            _expect_known(dtype)
        if Path(folder).is_file():
            arguments = llmc.load(folder)
        else:
            theirs = huggingface.find(folder)
            arguments = checkpoint.load(folder) if theirs is None else huggingface.load(theirs)
        params: Flat = arguments["params"]
        if dtype is not None and params.dtype != dtype:
            params = params.astype(dtype)
        return cls(**arguments | {"params": _here(params), "dtype": params.dtype})

    @checked
    def to(self, name: str) -> GPT:
        """The same model where the named engine computes.

        Parameters
        ----------
        name : "reference", "numba" or "cupy"
            "cupy" means on the GPU, the others in the host's memory. The engine in use does not change.

        Returns
        -------
        GPT
            Itself where it lies there, else a model with parameters of its own.
        """
        params = self.params.to(name)
        return self if params is self.params else self._with(params)

    @checked
    def astype(self, dtype: DTypeLike) -> GPT:
        """The same model in another dtype, with parameters of its own.

        >>> import numgpt
        >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
        >>> model.astype("float64").params.dtype
        dtype('float64')
        """
        _expect_known(dtype)
        return self._with(self.params.astype(dtype))

    @property
    def n_params(self) -> int:
        """The number of parameters."""
        return self.params.flat.size

    @checked
    def check_tokens(self, tokens: Ids, window: bool = True) -> NDArray[np.int64]:
        """Tokens as int64 (..., T), or an InputError that says what cannot be used.

        window: whether there may be no more than block_size positions.
        """
        ids = _array("tokens", tokens)
        if ids.ndim == 0 or ids.size == 0:
            raise InputError(f"tokens: have shape {ids.shape}, expected (B, T) with at least one token")
        check_ids("tokens", ids, self.config.vocab_size)
        if window and ids.shape[-1] > self.config.block_size:
            raise InputError(
                f"tokens: {ids.shape[-1]} positions, expected at most block_size {self.config.block_size}:"
                " give the last of them"
            )
        return ids.astype(np.int64, copy=False)

    @checked
    def check_targets(self, tokens: Ids, targets: Ids) -> NDArray[Any]:
        """Targets as integers of the shape of tokens, or an InputError; negative ones do not count."""
        ids, shape = _array("targets", targets), _array("tokens", tokens).shape
        if ids.shape != shape:
            raise InputError(f"targets: have shape {ids.shape}, expected {shape} as the tokens")
        check_ids("targets", ids, self.config.vocab_size, negative=True)
        return ids

    @checked
    def beside(self, ids: NDArray[Any], negative: bool = False) -> NDArray[Any]:
        """Checked ids where the parameters lie: tokens, or with negative also targets."""
        return engine.checked(ids, self.params.flat, self.config.vocab_size, negative)

    def _record(self, **options: Any) -> Record:
        return Record(self.params, self.config, seed=self.seed, **options)

    def _expect_gradients(self, out: Flat) -> None:
        """Raise InputError unless gradients may be written to out."""
        params = self.params
        _expect_like("loss_and_grads: out", out, params.shapes)
        if out.flat is params.flat or (
            not engine.on_gpu(out.flat)
            and not engine.on_gpu(params.flat)
            and np.may_share_memory(out.flat, params.flat)
        ):
            raise InputError(
                "loss_and_grads: out holds the parameters, which the gradients would replace, expected a Flat"
                " of its own: model.params.like()"
            )
        if not engine.on_gpu(out.flat) and not out.flat.flags.writeable:
            raise InputError(
                "loss_and_grads: out is read-only, expected a Flat that can be written to: give"
                " model.params.like()"
            )
        places = [(flat.dtype, engine.on_gpu(flat.flat)) for flat in (out, params)]
        if places[0] != places[1]:
            (actual, wanted) = (f"{d} {'on the GPU' if gpu else 'in the host memory'}" for d, gpu in places)
            raise InputError(
                f"loss_and_grads: out is {actual}, expected {wanted} as the parameters: model.params.like()"
            )

    def _with(self, params: Flat) -> GPT:
        return type(self)(self.config, self.seed, params.dtype, self.tokenizer, params)

    def _batch(
        self, tokens: Ids, targets: Ids, count: int | None
    ) -> tuple[NDArray[Any], NDArray[Any], int | None]:
        """Tokens and targets, checked, where the parameters lie, and how many targets count."""
        ids = self.check_tokens(tokens)
        wanted = self.check_targets(ids, targets)
        if count is None and engine.on_gpu(self.params.flat):
            count = int((wanted >= 0).sum())  # counted here, so that nothing has to wait for the GPU
        return self.beside(ids), self.beside(wanted, negative=True), count

    def __repr__(self) -> str:
        return f"<GPT {self.n_params:,} parameters, {self.params.dtype}: {self.config}>"


def _expect_known(dtype: DTypeLike) -> None:
    try:
        known = dtype is not None and np.dtype(dtype) in map(np.dtype, DTYPES)
    except TypeError:
        known = False
    if not known:
        raise InputError(f"GPT: dtype {dtype} is unknown, expected one of {', '.join(DTYPES)}")


def _expect_like(who: str, flat: Flat, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise InputError unless a Flat has the names and shapes of the model."""
    if flat.shapes == expected:
        return
    name = next(n for n in (*expected, *flat.shapes) if flat.shapes.get(n) != expected.get(n))
    actual, wanted = (f"has shape {s[name]}" if name in s else "is missing" for s in (flat.shapes, expected))
    wanted = wanted.replace("is missing", "no such name")
    raise InputError(f"{who}: {name} {actual}, expected {wanted.removeprefix('has ')}, as in the model")


def _here(params: Flat) -> Flat:
    """Parameters where the engine in use computes; a dtype that the GPU lacks stays where it is."""
    return params.to("cupy") if engine.is_cupy() and params.dtype in engine.ON_GPU else params


def _array(who: str, ids: Ids) -> NDArray[Any]:
    if engine.on_gpu(ids):
        raise InputError(
            f"{who}: lie on the GPU, expected them in the host's memory, where they are checked: give"
            f" {who}.get()"
        )
    return as_array(who, ids, "integers (B, T)", "pad the short ones, with targets of -1")
