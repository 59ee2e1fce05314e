"""GPT-2 in the format of transformers, read and written without PyTorch: config.json and model.safetensors.

The weights may also come in shards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import tokenizers
from ..architecture.config import Config
from ..architecture.parameters import Flat, shapes
from ..errors import InputError
from ..ops.activations import ACTIVATIONS
from ..storage import safetensors_file, temporary
from ..storage.atomic import StrPath, named, write_file, write_json
from ..storage.files import Missing, pickled, pickled_in, read_json
from ..storage.folders import replace_folder
from ..storage.states import one_state, place_of
from ..tokenizers import Tokenizer, gpt2_files
from ..tokenizers.files import as_bpe, huggingface_bytes
from . import checkpoint

CONFIG = "config.json"
MODEL = "model.safetensors"
INDEX = "model.safetensors.index.json"  # of shards: array → file
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
OURS = {theirs: ours for ours, row in ACTIVATIONS.items() for theirs in row.transformers}  # activations
# A dtype in a file → of the parameters. float32 holds the halves exactly.
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float32", "BF16": "float32"}
SHARD = re.compile(r"[\w-][\w.-]{0,200}\.safetensors", re.ASCII)  # a name without a folder
MASKS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")  # buffers in older files, which are no parameters
PREFIX = "transformer."  # of all names but lm_head's; older files lack it
# A field of Config → of transformers' config.json.
FIELDS = {
    "vocab_size": "vocab_size",
    "block_size": "n_positions",
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "n_inner": "n_inner",
    "tied": "tie_word_embeddings",
    "layer_norm_epsilon": "layer_norm_epsilon",
}
DROPOUTS = ("embd_pdrop", "attn_pdrop", "resid_pdrop")
# Settings of attention that would make it another function than GPT-2's.
ATTENTION = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
END = "<|endoftext|>"


class Entry(NamedTuple):
    """An array of a safetensors file, memory-mapped."""

    file: Path
    name: str  # as the file spells it
    dtype: str
    array: NDArray[Any]


def find(place: StrPath) -> Path | None:
    """The folder of a GPT-2 of transformers: the place itself, or a download for "hf:" and a name.

    None if there is no such model.
    """
    if str(place).startswith("hf:"):
        return download(str(place)[3:])
    try:
        is_theirs = one_state(place, _place, lambda folder: is_model(read_json(folder / CONFIG)))
    except Missing:
        return None
    return Path(place) if is_theirs else None


def is_model(config: Any) -> bool:
    """Whether the content of a config.json is that of a GPT-2 of transformers."""
    return isinstance(config, dict) and config.get("model_type") == "gpt2"


def _place(folder: StrPath) -> Path:
    """Where the model of a folder lies, also while a save swaps it; Missing where there is none."""
    place = place_of(Path(folder), CONFIG)
    if place is None:
        raise Missing(f"{Path(folder) / CONFIG}: does not exist, expected that of a GPT-2 of transformers")
    return place


def load(folder: StrPath) -> dict[str, Any]:
    """The arguments of GPT from a folder; every name, shape, dtype and value is checked.

    float16 and bfloat16 become float32, which holds them exactly. Names may come with "transformer." or
    without.
    """
    arguments, unread = one_state(folder, _place, _load)
    if unread is not None:
        warnings.warn(f"{unread}; the model is loaded without its tokenizer", stacklevel=3)
    return arguments


def _load(folder: Path) -> tuple[dict[str, Any], InputError | None]:
    """The arguments, and why the tokenizer cannot be read, if there is one and it cannot."""
    config = config_from(read_json(folder / CONFIG), folder / CONFIG)
    entries = _entries(folder)
    for entry in entries.values():
        if entry.dtype not in DTYPES:
            raise InputError(
                f"{entry.file}: {entry.name} has dtype {entry.dtype}, expected one of {', '.join(DTYPES)}"
            )
    # Some files repeat the embedding as lm_head.
    head = entries.pop("lm_head.weight", None) if config.tied else None
    expected = shapes(config)
    checkpoint.expect_names(folder, entries, expected)
    for name, entry in entries.items():
        if entry.array.shape != expected[name]:
            raise InputError(
                f"{entry.file}: {entry.name} has shape {entry.array.shape}, expected {expected[name]} from"
                f" {CONFIG}"
            )
    params = _parameters(folder, entries, expected)
    if head is not None:
        _expect_tied(folder, head, params)
    tokenizer, unread = _tokenizer(folder, config)
    arguments = {
        "config": config,
        "seed": 0,
        "dtype": params.dtype,
        "tokenizer": tokenizer,
        "params": params,
    }
    return arguments, unread


def _entries(folder: Path) -> dict[str, Entry]:
    """Name of a parameter → its entry, from all files of a folder."""
    entries: dict[str, Entry] = {}
    same: dict[str, str] = {}  # a name that a file left out → the name of the same array
    for file in _files(folder):
        stored, metadata = safetensors_file.read(file)
        same |= {name: other for name, other in metadata.items() if other in stored and name not in stored}
        for name, (dtype, array) in stored.items():
            parameter = name.removeprefix(PREFIX)
            if parameter in entries:
                raise InputError(f"{file}: {name} occurs twice, expected each array once")
            if not MASKS.fullmatch(parameter):
                entries[parameter] = Entry(file, name, dtype, array)
    for name, other in same.items():
        if other.removeprefix(PREFIX) in entries:
            entries.setdefault(name.removeprefix(PREFIX), entries[other.removeprefix(PREFIX)])
    return entries


def _files(folder: Path) -> list[Path]:
    """The safetensors files of a folder; shards must lie in it."""
    if (folder / MODEL).exists():
        return [folder / MODEL]
    if not (folder / INDEX).exists():
        weights = pickled_in(folder)
        if weights is not None:
            raise pickled(weights)
        raise Missing(f"{folder}: has neither {MODEL} nor {INDEX}, expected one of them")
    index = read_json(folder / INDEX)
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not shards or not all(isinstance(n, str) for n in shards.values()):
        raise InputError(f"{folder / INDEX}: has no weight_map from arrays to files, expected one")
    names = sorted(set(shards.values()))
    outside = next((name for name in names if not SHARD.fullmatch(name)), None)
    if outside is not None:
        raise InputError(
            f"{folder / INDEX}: names the file {outside!r}, expected safetensors files in the same folder"
        )
    absent = next((name for name in names if not (folder / name).exists()), None)
    if absent is not None:
        raise Missing(f"{folder / absent}: is missing, expected all files that {INDEX} names")
    return [folder / name for name in names]


def _parameters(folder: Path, entries: dict[str, Entry], expected: dict[str, tuple[int, ...]]) -> Flat:
    """The parameters from their entries, in float64 if any of them is; InputError unless all are finite."""
    double = any(entry.dtype == "F64" for entry in entries.values())
    params = Flat(expected, "float64" if double else "float32")
    with np.errstate(invalid="ignore"):  # a signalling NaN raises the flag when it changes its dtype
        for name, entry in entries.items():
            params[name] = _numbers(entry)
        bad = params.first_not_finite()
    if bad:
        raise InputError(f"{folder}: {bad} holds NaN or infinity, expected finite numbers")
    return params


def _expect_tied(folder: Path, head: Entry, params: Flat) -> None:
    """Raise InputError unless the matrix of the head, stored a second time, is the embedding's."""
    with np.errstate(invalid="ignore"):  # as above
        same = np.array_equal(_numbers(head), params["wte.weight"])
    if not same:
        raise InputError(
            f"{folder}: lm_head.weight is not wte.weight, which {CONFIG} says it is: set tie_word_embeddings"
            " to false there"
        )


def _numbers(entry: Entry) -> NDArray[Any]:
    """The numbers of an entry; bfloat16 is the upper half of a float32."""
    if entry.dtype == "BF16":
        return (entry.array.astype("<u4") << 16).view("<f4")
    return entry.array


def _tokenizer(folder: Path, config: Config) -> tuple[Tokenizer | None, InputError | None]:
    """The tokenizer beside a model, or None, with the error if there is one that numgpt cannot read.

    It may have fewer tokens than the model, whose vocabulary is often padded to a round number.
    """
    try:
        tokenizer = tokenizers.load(folder)
        if tokenizer.vocab_size > config.vocab_size:
            raise InputError(
                f"{folder}: the tokenizer has {tokenizer.vocab_size:,} tokens, expected at most the"
                f" {config.vocab_size:,} of {CONFIG}"
            )
        return tokenizer, None
    except Missing:
        return None, None
    except InputError as error:
        return None, error


def config_from(stored: Any, path: StrPath) -> Config:
    """The Config for the content of a config.json of transformers.

    InputError for a variant of GPT-2 that numgpt does not compute. path: the file's name, for errors.
    """
    if not is_model(stored):
        raise InputError(f"{path}: is not a GPT-2's, expected model_type gpt2")
    for name, expected in ATTENTION.items():
        if stored.get(name, expected) != expected:
            raise InputError(
                f"{path}: {name} is {stored[name]}, expected {str(expected).lower()}: that form of attention"
                " is not computed here"
            )
    activation = stored.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in OURS:
        raise InputError(f"{path}: activation_function is {activation!r}, expected one of {', '.join(OURS)}")
    values = {ours: stored[theirs] for ours, theirs in FIELDS.items() if theirs in stored}
    values["activation"] = OURS[activation]
    values["dropout"] = _dropout(stored, path)
    try:
        return Config(**values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _dropout(stored: dict[str, Any], path: StrPath) -> float:
    """The one rate of dropout here; 0 if transformers' three differ, for models are read to be used."""
    rates = set()
    for name in DROPOUTS:
        rate = stored.get(name, 0.1)
        if not isinstance(rate, int | float) or not 0 <= rate < 1:
            raise InputError(f"{path}: {name} is {rate!r}, expected a number of 0 to below 1")
        rates.add(float(rate))
    return rates.pop() if len(rates) == 1 else 0.0


def save(folder: StrPath, model: checkpoint.Model) -> None:
    """Write a model so that from_pretrained of transformers reads it.

    Its tokenizer is written if transformers has one that gives the same ids. Biases that the model lacks are
    written as 0.
    """
    folder = named(folder)
    _check(model)
    try:
        files = tokenizer_files(model)
    except InputError:  # transformers has none, for a unigram, say; the command convert reports it
        files = {}

    def expect(place: Path) -> None:
        if not _may_replace(place):
            raise InputError(
                f"{folder}: exists and is not just {CONFIG}, {MODEL} and tokenizer of a GPT-2, expected a new"
                " folder or one to replace: choose another name"
            )

    def write(new: Path) -> None:
        write_json(new / CONFIG, _config(model))
        checkpoint.write_tensors(new / MODEL, _arrays(model))
        for name, data in files.items():
            write_file(new / name, data)

    replace_folder(folder, write, expect)


def _check(model: checkpoint.Model) -> None:
    """Raise InputError for a model that is no GPT-2, whose dtype the format lacks, or that load() refuses."""
    c, dtype = model.config, model.params.dtype.name
    if not ACTIVATIONS[c.activation].transformers:
        raise InputError(
            f"save: transformers has no name for the activation {c.activation}, expected one of"
            f" {', '.join(dict.fromkeys(OURS.values()))}: save it as numgpt's own checkpoint"
        )
    for name in ("norm", "positions"):
        if getattr(c, name) != getattr(Config, name):
            raise InputError(
                f"save: the model has {name} {getattr(c, name)}, expected {getattr(Config, name)} in a GPT-2:"
                " save it as numgpt's own checkpoint"
            )
    if c.norm_position != "pre":
        raise InputError(
            "save: a model with norms after each sum is no GPT-2, expected norm_position pre: save it as"
            " numgpt's own checkpoint"
        )
    if dtype not in checkpoint.DTYPES:
        raise InputError(
            f"save: a {dtype} model does not fit, expected {' or '.join(checkpoint.DTYPES)}: use"
            " model.astype('float64')"
        )
    checkpoint.expect_loadable(model)


def _config(model: checkpoint.Model) -> dict[str, Any]:
    """The content of config.json."""
    c, dtype = model.config, model.params.dtype.name
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "dtype": dtype,
        "torch_dtype": dtype,  # the name of dtype in older versions
        "vocab_size": c.vocab_size,
        "n_positions": c.block_size,
        "n_layer": c.n_layer,
        "n_head": c.n_head,
        "n_embd": c.n_embd,
        "n_inner": c.n_inner,
        "activation_function": ACTIVATIONS[c.activation].transformers[0],
        "layer_norm_epsilon": c.layer_norm_epsilon,
        "tie_word_embeddings": c.tied,
        **dict.fromkeys(DROPOUTS, c.dropout),
    }
    end = None if model.tokenizer is None else model.tokenizer.specials.get(END)
    if end is not None or c.vocab_size <= 50256:  # else transformers' default is right: 50256, as in GPT-2
        config |= {"bos_token_id": end, "eos_token_id": end}
    return config


def _arrays(model: checkpoint.Model) -> dict[str, NDArray[Any]]:
    """Name → array as transformers calls them, with all biases."""
    arrays = {
        name if name == "lm_head.weight" else PREFIX + name: array
        for name, array in model.params.to("reference").items()
    }
    if model.config.bias:
        return arrays
    complete = shapes(dataclasses.replace(model.config, bias=True))
    biases = {name: shape for name, shape in complete.items() if name not in model.params}
    return arrays | {PREFIX + name: np.zeros(shape, model.params.dtype) for name, shape in biases.items()}


def tokenizer_files(model: checkpoint.Model) -> dict[str, bytes]:
    """Name → bytes of the files by which AutoTokenizer of transformers gives a tokenizer's ids.

    InputError if it cannot give them. vocab.json and merges.txt, for programs that know only these, are left
    out if they would give other ids.
    """
    if model.tokenizer is None:
        return {}
    tokenizer = model.tokenizer
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.config.block_size,
        "clean_up_tokenization_spaces": False,
    }
    if END in tokenizer.specials:
        config |= {"bos_token": END, "eos_token": END}
    files = {
        "tokenizer.json": huggingface_bytes(tokenizer),
        "tokenizer_config.json": (json.dumps(config, indent=1) + "\n").encode(),
    }
    with contextlib.suppress(InputError):
        files["vocab.json"], files["merges.txt"] = gpt2_files.write(as_bpe(tokenizer))
    return files


def download(name: str) -> Path:
    """The folder of a model on the Hugging Face hub, from its cache on this machine or from the network."""
    try:
        import huggingface_hub
    except ImportError:
        raise InputError(
            f"hf:{name}: huggingface_hub is not installed, expected it for a name on the hub: pip install"
            " numgpt[hub]"
        ) from None
    patterns = [CONFIG, "model*.safetensors", INDEX, *TOKENIZER, "added_tokens.json"]
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # of many types, from many libraries
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"hf:{name}: the Hugging Face hub did not give it ({reason}), expected a model's name and a"
            " network: download the folder elsewhere"
        ) from error


def _may_replace(folder: Path) -> bool:
    """Whether a folder is empty, or holds a GPT-2 of transformers and nothing else."""
    if not folder.is_dir():
        return False
    names = temporary.names(folder)
    if not names:
        return True
    theirs = {CONFIG, MODEL} <= names <= {CONFIG, MODEL, *TOKENIZER}
    return theirs and is_model(read_json(folder / CONFIG))
