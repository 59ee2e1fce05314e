"""GPT: a Config, its parameters and perhaps a tokenizer, with everything that one does with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..architecture.additions import Head, LoRA, all_shapes, extended, integers, quantized_by
from ..architecture.config import Config
from ..architecture.parameters import Flat, initialise
from ..architecture.pruned import Pruned
from ..architecture.quantized import Quantized
from ..arguments import Count, DType, HeldAttributes, Ids, checked
from ..errors import InputError
from ..interchange import checkpoint, gguf, huggingface, llama2c, llmc, peft
from ..layers import adapters
from ..layers.layer import Layer
from ..layers.transformer import gpt
from ..layers.transformer import loss as loss_of_gpt
from ..layers.visibility import Visibility
from ..ops.op import Op
from ..storage.shipped import located
from ..tokenizers import Tokenizer
from . import checks, differentiable, generate
from .derivatives import Derivatives
from .forms import Forms
from .pruning import Pruning

LAYOUTS: Mapping[str, Callable[..., None]] = {
    "numgpt": checkpoint.save,
    "hf": huggingface.save,
    "peft": peft.save,
    "llama2.c": llama2c.save,
    "llama2.c-v1": partial(llama2c.save, version=1),
    "llama2.c-v2": partial(llama2c.save, version=2),
    "gguf": gguf.save,
}


class GPT(Derivatives, Forms, Pruning, HeldAttributes):
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
        Parameters to use as they are, instead of drawing them. What is served may have some of its own under
        its name: "h.0.attn.c_attn.lora_a".
    served : mapping of name or pattern -> Op or Layer, optional
        What runs there in the place of the model's own: a mask on weights, a planted fault.
    additions : sequence of numgpt.LoRA, numgpt.Head, numgpt.Quantized and numgpt.Pruned, optional
        What it has besides its own parameters, or instead of some; saved and loaded with the model.
    template : mapping, optional
        The state of the chat template that it was tuned with; saved and loaded with the model.

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
        dtype: DType | None = None,
        tokenizer: Tokenizer | None = None,
        params: Flat | None = None,
        served: Mapping[str, Op | Layer] | None = None,
        additions: Sequence[LoRA | Head | Quantized | Pruned] = (),
        template: Mapping[str, Any] | None = None,
    ) -> None:
        given = np.dtype("float32") if params is None else params.dtype
        dtype = given if dtype is None else dtype
        checks.expect_known(dtype)
        self.config = config
        self.seed = seed
        self.tokenizer = tokenizer
        self.additions = tuple(additions)
        self.template = template
        self.replaced: Mapping[str, Op | Layer] = dict(served or {})
        expected = all_shapes(config, self.additions)
        if params is not None:
            checks.expect_like("GPT: params", params, checks.with_served(expected, params, self.replaced))
            checks.expect_integers("GPT: params", params, integers(config, self.additions))
            if np.dtype(dtype) != given:
                raise InputError(
                    f"GPT: params are {given}, expected {np.dtype(dtype)} as dtype says: leave dtype out, or"
                    " give params.astype(dtype)"
                )
        if params is None:
            if integers(config, self.additions):
                raise InputError(
                    "GPT: additions has Quantized or Pruned, whose integers are made of weights, expected"
                    " params with them: model.quantize() and model.pruned() make such models"
                )
            params = initialise(config, seed, dtype)
            params = _here(extended(params, config, self.additions, seed) if self.additions else params)
        self.params: Flat = params
        self.served: Mapping[str, Any] = self._serves()

    @checked
    def __call__(self, tokens: Ids, *, visibility: Visibility | None = None) -> NDArray[Any]:
        """Logits of the token after each position.

        Parameters
        ----------
        tokens : integers (..., T)
            At most block_size of them where positions are learned.
        visibility : numgpt.Visibility, optional
            Where the tokens stand and which of the others each sees: documents packed into a row, padding, a
            prefix that sees itself. Each sees those before it and itself unless given.

        Returns
        -------
        array (..., T, V)

        Raises
        ------
        InputError
            For ids that are not in the vocabulary, rows of different length, and too many positions.
        """
        ids = self.beside(self.check_tokens(tokens))
        return differentiable.value(self, gpt, (ids,), visibility=visibility)

    @checked
    def loss(
        self,
        tokens: Ids,
        targets: Ids,
        count: Count | None = None,
        *,
        visibility: Visibility | None = None,
    ) -> NDArray[Any]:
        """The mean surprise at the targets in nats, without gradients.

        Parameters
        ----------
        tokens, targets : integers (..., T)
            A negative target does not count.
        count : int, optional
            Divide by this instead of the number of targets that count.
        visibility : numgpt.Visibility, optional
            As in a call of the model.

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
        batch = checks.batch(self.config, self.params, tokens, targets, count)
        return differentiable.loss(self, loss_of_gpt, batch, visibility=visibility)

    @overload
    def generate(
        self, tokens: NDArray[Any], max_new_tokens: Count = 100, **sampling: Any
    ) -> NDArray[np.int64]: ...

    @overload
    def generate(self, tokens: Ids, max_new_tokens: Count = 100, **sampling: Any) -> Any: ...

    @checked
    def generate(self, tokens: Ids, max_new_tokens: Count = 100, **sampling: Any) -> Any:
        """Continue each row of tokens.

        Parameters
        ----------
        tokens : integers (B, T) or (T), or a sequence of such rows (T) of different length
            A prompt may be longer than block_size: where positions are learned, the model sees its end.
        max_new_tokens : int
        **sampling
            temperature, top_k, top_p, seed, slide, cache_size, keep_first and the others of
            numgpt.model.generate.stream.

        Returns
        -------
        integers (B, T + max_new_tokens), or (T + max_new_tokens)
            The prompt and what follows it; a list of rows where the prompts are of different length.

        Examples
        --------
        >>> import numgpt
        >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
        >>> model.generate([[0, 1], [2, 3]], max_new_tokens=6, top_k=3, seed=1).shape
        (2, 8)
        >>> [len(row) for row in model.generate([[0, 1, 4], [2]], max_new_tokens=6)]
        [9, 7]
        """
        if generate.is_ragged(tokens):
            prompts = [self.check_tokens(row, window=False) for row in cast(Sequence[Any], tokens)]
            new = np.stack(list(generate.stream(self, prompts, max_new_tokens, **sampling)), axis=1)
            return [np.concatenate(pair) for pair in zip(prompts, new)]
        ids = self.check_tokens(tokens, window=False)
        if ids.ndim > 2:
            raise InputError(f"tokens: have shape {ids.shape}, expected (B, T) or (T) to continue")
        rows = np.atleast_2d(ids)
        columns = [new[:, None] for new in generate.stream(self, rows, max_new_tokens, **sampling)]
        return np.concatenate([rows, *columns], axis=1).reshape(*ids.shape[:-1], -1)

    @checked
    def save(self, folder: str | PathLike[str], layout: str = "numgpt", dtype: str | None = None) -> None:
        """Write config, parameters and tokenizer to a folder or a file, whole or not at all.

        Parameters
        ----------
        folder : path
            A new folder, or one that holds a checkpoint to replace; not one of a run. For llama2.c
            and GGUF a file.
        layout : "numgpt", "hf", "peft", "llama2.c", "llama2.c-v1", "llama2.c-v2" or "gguf"
            "hf" writes what transformers reads, for the first of its classes that computes the model.
            "peft" writes the adapters alone, for that class, as PEFT reads them: `adapted` is its inverse.
            "llama2.c" writes the file that run.c reads, v1 the same numbers with another header, v2 the one
            of runq.c, in 8 bits; beside it the tokenizer, where that is llama2.c's own.
            "gguf" writes a file that llama.cpp reads, with its tokenizer, where gguf is installed.
        dtype : "float16", "float32", "float64", or for "gguf" "q8_0" or "q4_0", optional
            In which the file holds the parameters; their own unless given, of GGUF float32. float16 takes
            half the bytes of float32, keeps 11 bits of each number, and is read as float32. q8_0 and q4_0
            have 8 and 4 bits for a number of a matrix, and a scale for 32 of a row.

        Raises
        ------
        InputError
            Where the folder holds something else, belongs to a run, or has a tokenizer that the model lacks;
            where the layout has no place for what the model is; where load would refuse it, for NaN, infinity
            or a tokenizer with more tokens than the model has; for a number that dtype cannot hold. Nothing
            is written then.
        """
        if layout not in LAYOUTS:
            raise InputError(f"save: layout {layout!r} is unknown, expected {' or '.join(LAYOUTS)}")
        if self.replaced:
            raise InputError(
                f"save: other ops are served at {', '.join(self.replaced)}, which no file has, expected none:"
                " save GPT(model.config, params=...) of the model's own parameters"
            )
        if layout not in ("numgpt", "peft") and quantized_by(self.additions) is not None:
            raise InputError(
                f"save: the model is quantized, which {layout!r} has no place for, expected floats:"
                " model.dequantized(), or numgpt convert --dequantize"
            )
        if self.additions and layout not in ("numgpt", "peft"):
            kinds = ", ".join(type(addition).__name__ for addition in self.additions)
            raise InputError(
                f"save: the layout {layout!r} has no place for {kinds}, expected a model without additions:"
                " merge adapters and masks by model.merged(), or save in the layout 'numgpt', or an adapter"
                " alone as 'peft'"
            )
        checkpoint.expect_no_run(folder)
        LAYOUTS[layout](folder, self, dtype=dtype)

    @classmethod
    @checked
    def load(cls, folder: str | PathLike[str], dtype: DType | None = None) -> GPT:
        """The model of a checkpoint, of a run, of transformers, of llm.c, of llama2.c or of a file of GGUF.

        Parameters
        ----------
        folder : path or str
            A checkpoint's folder; a run's, of which the best checkpoint is read, or the last where there is
            no best; the folder of a model that transformers saved, of one of 41 classes; a model's file of
            llm.c, of llama2.c or of GGUF; "numgpt:austen" or "numgpt:tiny", which ship with numgpt; or "hf:"
            and a name on the Hugging Face hub, where huggingface_hub is installed.
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
            checks.expect_known(dtype)
        folder = located(folder)
        if Path(folder).is_file():
            kind = next((kind for kind in (gguf, llama2c) if kind.is_model(folder)), llmc)
            arguments = kind.load(folder)
        else:
            theirs = huggingface.find(folder)
            if theirs is None and peft.is_adapter(folder):
                raise InputError(
                    f"{folder}: is an adapter of PEFT, expected a model: load the one that it was made for,"
                    " then model.adapted(folder), on the command line --adapter"
                )
            arguments = checkpoint.load(folder) if theirs is None else huggingface.load(theirs)
        params: Flat = arguments["params"]
        if dtype is not None and params.dtype != dtype:
            params = params.astype(dtype)
        return cls(**arguments | {"params": _here(params), "dtype": params.dtype})

    @property
    def n_params(self) -> int:
        """The number of parameters; each rounded one counts, too."""
        return self.params.n_weights

    @checked
    def check_tokens(self, tokens: Ids, window: bool = True) -> NDArray[np.int64]:
        """Tokens as int64 (..., T), or an InputError that says what cannot be used.

        window: whether there may be no more than block_size positions.
        """
        return checks.tokens(self.config, tokens, window)

    @checked
    def check_targets(self, tokens: Ids, targets: Ids) -> NDArray[Any]:
        """Targets as integers of the shape of tokens, or an InputError; negative ones do not count."""
        return checks.targets(self.config, tokens, targets)

    @checked
    def beside(self, ids: NDArray[Any], negative: bool = False) -> NDArray[Any]:
        """Checked ids where the parameters lie: tokens, or with negative also targets."""
        return checks.beside(self.config, self.params, ids, negative)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of: the layers of adapters are none of its own."""
        return {name: value for name, value in vars(self).items() if name != "served"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        vars(self)["served"] = self._serves()

    def _serves(self) -> dict[str, Op | Layer]:
        """Name -> what runs there: what was given, and the adapters."""
        return {**self.replaced, **adapters.served(self.additions, self.config)}

    def __repr__(self) -> str:
        return f"<GPT {self.n_params:,} parameters, {self.params.dtype}: {self.config}>"


def _here(params: Flat) -> Flat:
    """Parameters where the engine in use computes; a dtype that the GPU lacks stays where it is."""
    return params.to("cupy") if engine.is_cupy() and params.dtype in engine.ON_GPU else params
