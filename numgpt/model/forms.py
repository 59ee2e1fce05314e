"""Forms: the chapter of GPT that gives it anew, elsewhere, in another dtype, with additions or without."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any, Self, cast

from ..architecture.additions import Head, LoRA, extended
from ..architecture.config import Config
from ..architecture.parameters import Flat
from ..arguments import DType, checked_as
from ..interchange import peft
from ..layers import adapters
from ..tokenizers import Tokenizer
from . import checks


class Forms:
    """What GPT has of forms: each gives a model that shares what it need not change."""

    config: Config
    params: Flat
    seed: int
    tokenizer: Tokenizer | None
    additions: tuple[LoRA | Head, ...]
    replaced: Mapping[str, Any]
    template: Mapping[str, Any] | None

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
        """The same function without adapters: each is multiplied out and added to its matrix, W + s A B.

        Returns
        -------
        GPT
            Parameters of its own; what it computes differs from before by rounding.
        """
        rest = tuple(a for a in self.additions if not isinstance(a, LoRA))
        params = extended(self.params, self.config, rest, self.seed)
        for addition in self.additions:
            if isinstance(addition, LoRA):
                for name, change in adapters.products(addition, self.config, self.params):
                    params[f"{name}.weight"] += change
        return self._with(params, rest)

    def _with(self, params: Flat, additions: tuple[LoRA | Head, ...]) -> Self:
        own: Any = type(self)
        given = self.tokenizer, params, self.replaced, additions, self.template
        return cast(Self, own(self.config, self.seed, params.dtype, *given))
