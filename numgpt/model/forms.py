"""Forms: the chapter of GPT that gives it anew, elsewhere, in another dtype, with additions or without."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any, Self, cast

import numpy as np

from .. import engine
from ..architecture.additions import Head, LoRA, extended, pruned_by, quantized_by
from ..architecture.config import Config
from ..architecture.parameters import Flat
from ..architecture.pruned import Pruned
from ..architecture.quantized import CLIPS, Quantized
from ..arguments import DType, Ids, Size, checked_as
from ..errors import InputError
from ..interchange import peft
from ..layers import adapters
from ..pruning.masks import without_masks
from ..quantization.calibration import hessians
from ..quantization.weights import dequantized, quantized
from ..tokenizers import Tokenizer
from . import checks


class Forms:
    """What GPT has of forms: each gives a model that shares what it need not change."""

    config: Config
    params: Flat
    seed: int
    tokenizer: Tokenizer | None
    additions: tuple[LoRA | Head | Quantized | Pruned, ...]
    replaced: Mapping[str, Any]
    template: Mapping[str, Any] | None
    served: Mapping[str, Any]

    @checked_as("GPT.to")
    def to(self, name: str) -> Self:
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
        return self if params is self.params else self._with(params, self.additions)

    @checked_as("GPT.astype")
    def astype(self, dtype: DType) -> Self:
        """The same model in another dtype, with parameters of its own.

        >>> import numgpt
        >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
        >>> model.astype("float64").params.dtype
        dtype('float64')
        """
        checks.expect_known(dtype)
        return self._with(self.params.astype(dtype), self.additions)

    @checked_as("GPT.extended")
    def extended(self, *additions: LoRA | Head) -> Self:
        """The same model with adapters or a head besides, and parameters of its own.

        Parameters
        ----------
        *additions : LoRA or Head
            Their first values are drawn by the model's seed.

        Returns
        -------
        GPT
            It computes what this one does, to the bit, until it is trained.

        Raises
        ------
        InputError
            Where the model has such a parameter already, or a pattern fits none of its matrices.

        Examples
        --------
        >>> import numgpt
        >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
        >>> adapted = model.extended(numgpt.LoRA(rank=2))
        >>> adapted.n_params - model.n_params
        128
        >>> bool((adapted([0, 1]) == model([0, 1])).all())
        True
        """
        all_of_them = (*self.additions, *additions)
        return self._with(extended(self.params, self.config, all_of_them, self.seed), all_of_them)

    @checked_as("GPT.adapted")
    def adapted(self, folder: str | PathLike[str], kind: str | None = None) -> Self:
        """The same model with the adapter that PEFT saved in a folder, and parameters of its own.

        Parameters
        ----------
        folder : path
            It has adapter_config.json and adapter_model.safetensors. Its ranks, alphas and rsLoRA become
            those of LoRA, and a score layer that was trained with it becomes a Head.
        kind : str, optional
            The model_type of the model that it was made for, where several classes of transformers compute
            it with the same names and other orders of columns, such as "llama" and "helium"; what the file
            says unless given, else the first of them.

        Returns
        -------
        GPT
            It computes what the model does in PEFT; save(folder, layout="peft") writes the adapter again.

        Raises
        ------
        InputError
            For an adapter of another model, for what numgpt does not compute, such as DoRA, and where the
            model has such an adapter already.

        Examples
        --------
        >>> import numgpt, tempfile
        >>> config = numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4)
        >>> model = numgpt.GPT(config)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.extended(numgpt.LoRA(rank=2)).save(folder, layout="peft")
        ...     model.adapted(folder).additions[0].rank
        2
        """
        return cast(Self, peft.load(folder, self, kind))

    def merged(self) -> Self:
        """The same function without adapters and masks: M ∘ W for W, or W + s A B.

        Returns
        -------
        GPT
            Parameters of its own; what it computes differs from before by rounding.
        """
        rest = tuple(a for a in self.additions if not isinstance(a, LoRA | Pruned))
        if len(rest) < len(self.additions) and quantized_by(self.additions) is not None:
            raise InputError(
                "merged: the model is quantized, and an adapter is finer than its steps, expected floats:"
                " model.dequantized().merged(), which quantize() may round again"
            )
        if pruned_by(self.additions) is None:
            params = extended(self.params, self.config, rest, self.seed)
        else:
            params = self._beside(without_masks(self.params.to("reference"), self.config, rest))
        for addition in self.additions:
            if isinstance(addition, LoRA):
                for name, change in adapters.products(addition, self.config, self.params):
                    params[f"{name}.weight"] += change
        return self._with(params, rest)

    @checked_as("GPT.quantize")
    def quantize(
        self,
        bits: Size = 8,
        group: Size = 64,
        clip: str = "mse",
        asymmetric: bool = False,
        keep_embedding: bool = False,
        calibration: Ids | None = None,
    ) -> Self:
        """The same model with its matrices rounded to integers, and parameters of its own.

        It reads, generates and is measured as any model; only adapters beside its matrices can be trained.

        Parameters
        ----------
        bits : 8 or 4
            Of each weight of attention, feed-forwards and experts. Embedding and unembedding have 8 either
            way.
        group : int
            With 4 bits, how many inputs of an output share a scale; it divides those of every matrix.
        clip : "mse" or "absmax"
            With 4 bits, whether the largest weights of a group may be clipped where that makes its square
            error least, or a group's scale is by its largest weight.
        asymmetric : bool
            With 4 bits, whether a group has a zero of its own: the range from its least to its largest
            weight.
        keep_embedding : bool
            Whether embedding and unembedding stay floats.
        calibration : integers (B, T), optional
            A text by whose activations the 4 bits are chosen, by GPTQ: some 10,000 tokens of what it will
            read.

        Returns
        -------
        GPT

        Raises
        ------
        InputError
            For other bits, a group that does not divide, a model that is quantized already or has adapters.

        Examples
        --------
        >>> import numgpt
        >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=8))
        >>> small = model.quantize(bits=4, group=8)
        >>> small.params["h.0.mlp.c_fc.weight_q"].dtype, small.params.nbytes < model.params.nbytes / 2
        (dtype('uint8'), True)
        """
        if quantized_by(self.additions) is not None:
            raise InputError("quantize: the model is quantized already, expected floats: model.dequantized()")
        if pruned_by(self.additions) is not None:
            raise InputError(
                "quantize: the model has masks, expected none: model.merged() has their zeros, which are"
                " rounded to 0"
            )
        if any(isinstance(a, LoRA) for a in self.additions):
            raise InputError(
                "quantize: the model has an adapter, expected none: model.merged(), or round its base first"
            )
        if clip not in CLIPS:
            raise InputError(f"quantize: clip is {clip!r}, expected one of {', '.join(CLIPS)}")
        if calibration is not None and bits != 4:
            raise InputError(f"quantize: calibration is given with {bits} bits, expected 4: leave it out")
        how = Quantized(bits, group, asymmetric, keep_embedding)
        found, here = None, self.to("reference")
        if calibration is not None:
            ids = np.atleast_2d(checks.tokens(self.config, calibration))
            names = [name for name, form in how.forms(self.config).items() if form.bits == 4]
            found = hessians(here, ids, names)
        additions = (how, *self.additions)
        return self._with(
            self._beside(quantized(here.params, self.config, additions, clip, found)), additions
        )

    def dequantized(self) -> Self:
        """The same function in floats, with the matrices that integers and scales stand for.

        >>> import numgpt
        >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=8))
        >>> list(model.quantize().dequantized().params) == list(model.params)
        True
        """
        rest = tuple(a for a in self.additions if not isinstance(a, Quantized))
        if len(rest) == len(self.additions):
            return self._with(self.params.astype(self.params.dtype), rest)
        params = dequantized(self.params.to("reference"), self.config, self.additions)
        return self._with(self._beside(params), rest)

    def plain(self) -> Self:
        """The same function in matrices of floats: no integers, adapters or masks; itself where it has none.

        For who reads a matrix by its name: beside an adapter "h.0.attn.c_attn.weight" is not all that is
        multiplied there.

        >>> import numgpt
        >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=8))
        >>> model.plain() is model, list(model.pruned(0.5).plain().params) == list(model.params)
        (True, True)
        """
        model = self if quantized_by(self.additions) is None else self.dequantized()
        return model.merged() if any(isinstance(a, LoRA | Pruned) for a in model.additions) else model

    def _beside(self, params: Flat) -> Flat:
        """Parameters where this model's lie."""
        return params.to("cupy") if engine.on_gpu(self.params.flat) else params

    def _with(self, params: Flat, additions: tuple[LoRA | Head | Quantized | Pruned, ...]) -> Self:
        own: Any = type(self)
        given = self.tokenizer, params, self.replaced, additions, self.template
        return cast(Self, own(self.config, self.seed, params.dtype, *given))
