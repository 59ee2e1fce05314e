"""The classes of transformers that numgpt reads and writes: a row of data each.

A class has a table of names, as parameter_names.py reads it, and its config.json as functions, one a way. A
Config fits a class if and only if reading what is written gives the same model again.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..architecture.by_layer import meaning
from ..architecture.config import Config
from ..architecture.parameters import shapes
from ..errors import InputError, did_you_mean
from ..storage.atomic import StrPath
from . import gpt2_keys, llama_keys
from .class_tables import LLAMA
from .classes import ROWS
from .config_keys import Keys, by_key
from .features import Feature, sizes, translation
from .gpt_classes import Row
from .mixture_classes import MIXTURES
from .parameter_names import Piece, lines, pieces, placeholders, views

GPT2 = """
wte            wte
wpe            wpe
h.ln_1         h.{i}.ln_1
h.attn.c_attn  h.{i}.attn.c_attn  in_out
h.attn.c_proj  h.{i}.attn.c_proj  in_out
h.ln_2         h.{i}.ln_2
h.mlp.c_fc     h.{i}.mlp.c_fc     in_out
h.mlp.c_proj   h.{i}.mlp.c_proj   in_out
ln_f           ln_f
lm_head        lm_head
"""
# Masks and angles that older files hold beside the parameters.
BUFFERS = (
    r"(h|layers|blocks)\.\d+\.(attn|attention|self_attn|attn\.attention)"
    r"\.(bias|masked_bias|causal_mask|rotary_emb\.inv_freq|embed_positions)"
)


# No token is for padding: transformers would give its embedding no gradient.
NO_PADDING = Feature(("pad_token_id",), lambda keys, fields: {}, lambda config: {"pad_token_id": None})


class Architecture(NamedTuple):
    """A class of transformers.

    name: in a sentence. model: the class itself.
    table: the names of parameters, without their prefix, which older files lack; or a function of the Config
    that gives them.
    buffers: a pattern of arrays in older files that are no parameters.
    defaults: what a key means that a file leaves out.
    sizes: our field → the key that says the same. others: further keys that are read.
    complete: a Config that has every parameter which the class has; ours are 0 where a model lacks them.
    older: keys of older files → those that they mean.
    """

    name: str
    model: str
    table: str | Callable[[Config], str]
    prefix: str
    buffers: str
    defaults: Mapping[str, Any]
    read: Callable[[Keys], dict[str, Any]]
    write: Callable[[Config], dict[str, Any]]
    sizes: Mapping[str, str]
    others: tuple[str, ...]
    complete: Callable[[Config], Config] = lambda config: config
    older: Mapping[str, str] = {}

    def config(self, stored: Mapping[str, Any], path: StrPath) -> Config:
        """The Config for the content of a config.json; path: the file's name, for errors."""
        renamed = {new: stored[old] for old, new in self.older.items() if old in stored}
        keys = Keys({**renamed, **stored}, self.defaults, path)
        for old, new in self.older.items():
            if stored.get(old) is not None and stored[old] != keys[new]:
                keys.refuse(old, f"{keys[new]!r} as {new} says, or only one of the two")
        values = self.read(keys)
        try:
            return Config(**values)
        except InputError as error:
            raise by_key(error, self.sizes, path) from error

    def table_of(self, config: Config) -> str:
        """The table of a Config."""
        return self.table if isinstance(self.table, str) else self.table(config)

    def head(self, config: Config) -> str:
        """The name of the unembedding's matrix, which has no prefix."""
        return f"{lines(self.table_of(config))['lm_head'].theirs[0]}.weight"

    def shapes(self, config: Config) -> dict[str, tuple[int, ...]]:
        """The name, without prefix, and shape of each array that a file holds."""
        ours = placeholders(config)
        return {name: p.shape(ours[p.ours].shape) for name, p in self.pieces(config, ours).items()}

    def pieces(self, config: Config, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Piece]:
        """The name of each array of a file, without prefix, and where among ours it lies."""
        return pieces(self.table_of(config), config, arrays)

    def views(self, config: Config, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Arrays by our names as they are in a file, by the names there."""
        return views(self.table_of(config), config, arrays)

    def arrays(
        self, config: Config, arrays: Mapping[str, NDArray[Any]], are_gradients: bool = False
    ) -> dict[str, NDArray[Any]]:
        """What a file holds of a model's parameters, by full names; or of their gradients."""
        complete = self.complete(config)
        dtype = next(iter(arrays.values())).dtype
        zeros = {
            name: np.zeros(shape, dtype) for name, shape in shapes(complete).items() if name not in arrays
        }
        ours = {**arrays, **zeros}
        head = self.head(config).removesuffix("weight")
        return {
            name if name.startswith(head) else self.prefix + name: p.elsewhere(ours[p.ours], are_gradients)
            for name, p in self.pieces(complete, ours).items()
        }

    def is_buffer(self, name: str) -> bool:
        """Whether an array of a file, without prefix, is no parameter."""
        return re.fullmatch(self.buffers, name) is not None

    def differing(self, config: Config) -> list[str]:
        """The fields of a Config in which a model of this class would differ from it."""
        wanted = meaning(self.complete(config))
        try:
            ours = meaning(self.config(self.write(config), "config.json"))
        except InputError:  # the class takes less than Config does
            return list(wanted)
        return [name for name, value in wanted.items() if ours[name] != value]


def _with_biases(config: Config) -> Config:
    """A GPT-2 has all biases."""
    return dataclasses.replace(config, bias=True, biases=None)


def _of_row(row: Row) -> Architecture:
    """The Architecture of a row of features."""
    read, write = translation((sizes(row.sizes), *row.features, NO_PADDING))
    keys = tuple(key for feature in row.features for key in feature.keys)
    return Architecture(
        row.name,
        row.model,
        row.table,
        row.prefix,
        BUFFERS,
        row.defaults,
        read,
        write,
        row.sizes,
        (*keys, *row.older),
        older=row.older,
    )


_LLAMA = Architecture(
    "Llama",
    "LlamaForCausalLM",
    LLAMA,
    "model.",
    r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
    llama_keys.LLAMA,
    llama_keys.read_llama,
    llama_keys.write_llama,
    llama_keys.SIZES,
    llama_keys.OTHERS,
)
# By model_type, in the order in which they are tried for a model that is to be saved.
ARCHITECTURES = {
    "gpt2": Architecture(
        "GPT-2",
        "GPT2LMHeadModel",
        GPT2,
        "transformer.",
        r"h\.\d+\.attn\.(bias|masked_bias)",
        gpt2_keys.DEFAULTS,
        gpt2_keys.read,
        gpt2_keys.write,
        gpt2_keys.SIZES,
        gpt2_keys.OTHERS,
        _with_biases,
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA._replace(
        name="Mistral",
        model="MistralForCausalLM",
        defaults=llama_keys.MISTRAL,
        read=llama_keys.read_mistral,
        write=llama_keys.write_mistral,
    ),
    "qwen2": _LLAMA._replace(
        name="Qwen2",
        model="Qwen2ForCausalLM",
        defaults=llama_keys.QWEN2,
        read=llama_keys.read_qwen2,
        write=llama_keys.write_qwen2,
    ),
}


ARCHITECTURES |= {kind: _of_row(row) for kind, row in (ROWS | MIXTURES).items()}


def of(stored: Any) -> Architecture | None:
    """The Architecture of the content of a config.json; None where it is of no class that is known."""
    kind = stored.get("model_type") if isinstance(stored, dict) else None
    return ARCHITECTURES.get(kind) if isinstance(kind, str) else None


def fitting(config: Config, wanted: str | None = None) -> tuple[str, Architecture]:
    """(model_type, the class) of transformers that computes a model; InputError where there is none.

    wanted: the one model_type that may.
    """
    rows = ARCHITECTURES if wanted is None else {wanted: ARCHITECTURES[wanted]}
    differing = {kind: row.differing(config) for kind, row in rows.items()}
    kind = min(differing, key=lambda kind: len(differing[kind]))
    if not differing[kind]:
        return kind, ARCHITECTURES[kind]
    name = differing[kind][0]
    values = dict.fromkeys(getattr(c, name) for c in (*config.scopes().values(), config))
    shown = " and ".join(map(str, values))
    raise InputError(
        f"save: the model has {name} {shown}, which with its other settings no class of transformers has that"
        f" is known here ({', '.join(ARCHITECTURES)}): save it as numgpt's own checkpoint"
    )


# A word of a table → what it says of the form there. Orders of columns are told by the whole word.
SAID = {
    "in_out": "",
    "plus_one": "1 is added here",
    "after_two": "after two rows that nothing reads",
    "bare": "without .weight, and _bias for .bias",
    "alternating": "gate and value of each feature side by side",
    "grouped": "the queries of a key head, its key, its value",
    "by_quarters": "four times a quarter of queries, values, keys",
    "interleaved": "what turns together side by side",
}


def beside(kind: str) -> list[tuple[str, str, str]]:
    """A heading, then (our name, theirs, how the form there differs) for each part of a class.

    {i} is the number of a block and {e} that of an expert.
    InputError for a model_type that is not known here.
    """
    if kind not in ARCHITECTURES:
        raise InputError(
            f"names: {kind!r} is no class that is known here{did_you_mean(kind, ARCHITECTURES)}, expected a"
            f" model_type, one of {', '.join(ARCHITECTURES)}"
        )
    row = ARCHITECTURES[kind]
    rows = [("numgpt", row.model, "there")]
    for text in row.table_of(row.config({}, "config.json")).strip().splitlines():
        ours, theirs, *words = text.split()
        is_in_block = ours.startswith("h.")
        forms = [SAID[word] for word in words if SAID[word]]
        if is_in_block and "in_out" not in words and ".ln_" not in ours and not ours.endswith(".heads"):
            forms.insert(0, "(out, in)")
        name = ours.removesuffix("[e]").replace("h.", "h.{i}.", 1) if is_in_block else ours
        rows.append((name, ("" if ours == "lm_head" else row.prefix) + theirs, "; ".join(forms)))
    return rows
