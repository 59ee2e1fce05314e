"""Folders of transformers, read and written without PyTorch: config.json, weights and a tokenizer.

Which classes of models there are stands in architectures.py.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import tokenizers
from ..architecture.config import Config
from ..architecture.parameters import Flat, shapes
from ..errors import InputError, did_you_mean
from ..storage import temporary
from ..storage.atomic import StrPath, named, write_file, write_json
from ..storage.files import Missing, read_json
from ..storage.folders import replace_folder
from ..storage.states import one_state, place_of
from ..tokenizers import Tokenizer, gpt2_files
from ..tokenizers.files import as_bpe, huggingface_bytes
from . import architectures, checkpoint, tensor_files
from .architectures import Architecture
from .tensor_files import INDEX, MODEL, Entry

CONFIG = "config.json"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
# Special tokens that begin and end a text, of which the first pair that a tokenizer has is named to others.
ENDS = (("<|endoftext|>", "<|endoftext|>"), ("<s>", "</s>"), ("<|begin_of_text|>", "<|end_of_text|>"))


def find(place: StrPath) -> Path | None:
    """The folder of a model of transformers: the place itself, or a download for "hf:" and a name.

    None if there is no model of transformers, whether its class is known or not.
    """
    if str(place).startswith("hf:"):
        return download(str(place)[3:])
    try:
        is_theirs = one_state(place, _place, lambda folder: _is_theirs(read_json(folder / CONFIG)))
    except Missing:
        return None
    return Path(place) if is_theirs else None


def _is_theirs(config: Any) -> bool:
    """Whether the content of a config.json is of transformers: it names a class, and has no config inside."""
    return isinstance(config, dict) and "model_type" in config and "config" not in config


def is_model(config: Any) -> bool:
    """Whether the content of a config.json is of a class of transformers that is known."""
    return architectures.of(config) is not None


def class_of(folder: Path) -> str:
    """The name of the class of a model of transformers, "GPT-2"."""
    return one_state(folder, _place, lambda place: _class(read_json(place / CONFIG), place / CONFIG)).name


def _place(folder: StrPath) -> Path:
    """Where the model of a folder lies, also while a save swaps it; Missing where there is none."""
    place = place_of(Path(folder), CONFIG)
    if place is None:
        raise Missing(f"{Path(folder) / CONFIG}: does not exist, expected that of a model of transformers")
    return place


def load(folder: StrPath) -> dict[str, Any]:
    """The arguments of GPT from a folder; every name, shape, dtype and value is checked.

    float16 and bfloat16 become float32, which holds them exactly. Names may come with the prefix of their
    class, such as "transformer.", or without.
    """
    arguments, unread = one_state(folder, _place, _load)
    if unread is not None:
        warnings.warn(f"{unread}; the model is loaded without its tokenizer", stacklevel=3)
    return arguments


def _load(folder: Path) -> tuple[dict[str, Any], InputError | None]:
    """The arguments, and why the tokenizer cannot be read, if there is one and it cannot."""
    architecture, config = _read_config(read_json(folder / CONFIG), folder / CONFIG)
    entries = tensor_files.entries(folder, architecture.prefix, architecture.is_buffer)
    # Some files repeat the embedding as lm_head.
    head = entries.pop(architecture.head(config), None) if config.tied else None
    expected = architecture.shapes(config)
    checkpoint.expect_names(folder, entries, expected)
    for name, entry in entries.items():
        if entry.array.shape != expected[name]:
            raise InputError(
                f"{entry.file}: {entry.name} has shape {entry.array.shape}, expected {expected[name]} from"
                f" {CONFIG}"
            )
    params = _parameters(folder, entries, architecture, config)
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


def _parameters(folder: Path, entries: dict[str, Entry], architecture: Architecture, config: Config) -> Flat:
    """The parameters from their entries, in float64 if any of them is; InputError unless all are finite."""
    double = any(entry.dtype == "F64" for entry in entries.values())
    params = Flat(shapes(config), "float64" if double else "float32")
    with np.errstate(invalid="ignore"):  # a signalling NaN raises the flag when it changes its dtype
        for name, piece in architecture.pieces(config, params).items():
            piece.put(params[piece.ours], tensor_files.numbers(entries[name]))
        bad = params.first_not_finite()
    if bad:
        raise InputError(f"{folder}: {bad} holds NaN or infinity, expected finite numbers")
    return params


def _expect_tied(folder: Path, head: Entry, params: Flat) -> None:
    """Raise InputError unless the matrix of the head, stored a second time, is the embedding's."""
    with np.errstate(invalid="ignore"):  # as above
        same = np.array_equal(tensor_files.numbers(head), params["wte.weight"])
    if not same:
        raise InputError(
            f"{folder}: {head.name} is not wte.weight, expected the same numbers, for {CONFIG} ties them: set"
            " tie_word_embeddings to false there"
        )


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

    InputError for a class or a variant that numgpt does not compute. path: the file's name, for errors.
    """
    return _read_config(stored, path)[1]


def _read_config(stored: Any, path: StrPath) -> tuple[Architecture, Config]:
    architecture = _class(stored, path)
    if stored.get("quantization_config") is not None:
        raise InputError(
            f"{path}: has a quantization_config, expected none: weights are read in float16 and longer floats"
        )
    return architecture, architecture.config(stored, path)


def _class(stored: Any, path: StrPath) -> Architecture:
    """The class that a config.json names; InputError for one that is not known, or two of them."""
    architecture = architectures.of(stored)
    if architecture is None:
        kinds = architectures.ARCHITECTURES
        kind = stored.get("model_type") if isinstance(stored, dict) else None
        near = did_you_mean(str(kind), kinds)
        raise InputError(
            f"{path}: model_type is {kind!r}{near}, a class that numgpt does not read, expected one of"
            f" {', '.join(kinds)}"
        )
    named = stored.get("architectures")
    others = {row.model for row in architectures.ARCHITECTURES.values()} - {architecture.model}
    if isinstance(named, list) and any(isinstance(name, str) and name in others for name in named):
        raise InputError(
            f"{path}: architectures is {named}, expected {architecture.model}, which model_type"
            f" {stored['model_type']!r} says"
        )
    return architecture


def save(
    folder: StrPath, model: checkpoint.Model, *, dtype: str | None = None, kind: str | None = None
) -> None:
    """Write a model so that from_pretrained of transformers reads it.

    dtype: in which the parameters are stored; their own unless given. kind: the model_type, for a model that
    several classes compute; the first unless given.

    Its tokenizer is written if transformers has one that gives the same ids. Biases that the model lacks and
    its class has are written as 0.
    """
    folder = named(folder)
    kind, architecture = architectures.fitting(model.config, kind)
    dtype = checkpoint.stored_dtype(model, dtype)
    checkpoint.expect_loadable(model)
    arrays = architecture.arrays(model.config, model.params.to("reference"))
    stored = checkpoint.as_stored(arrays, dtype)
    try:
        files = tokenizer_files(model)
    except InputError:  # transformers has none, for a unigram, say; the command convert reports it
        files = {}

    def expect(place: Path) -> None:
        if not _may_replace(place):
            raise InputError(
                f"{folder}: exists and is not just {CONFIG}, {MODEL} and tokenizer of transformers, expected"
                " a new folder or one to replace: choose another name"
            )

    def write(new: Path) -> None:
        write_json(new / CONFIG, _config(model, dtype, kind, architecture))
        checkpoint.write_tensors(new / MODEL, stored)
        for name, data in files.items():
            write_file(new / name, data)

    replace_folder(folder, write, expect)


def _config(model: checkpoint.Model, dtype: str, kind: str, architecture: Architecture) -> dict[str, Any]:
    """The content of config.json."""
    V = model.config.vocab_size
    config = {
        "architectures": [architecture.model],
        "model_type": kind,
        "dtype": dtype,
        "torch_dtype": dtype,  # the name of dtype in older versions
        **architecture.write(model.config),
    }
    specials = {} if model.tokenizer is None else model.tokenizer.specials
    ends = _ends(specials)
    if ends or kind != "gpt2" or V <= 50256:  # else transformers' default is right: 50256
        config |= {"bos_token_id": None, "eos_token_id": None}
    for name, token in ends.items():
        config[f"{name}_id"] = specials[token]
    return config


def _ends(specials: Mapping[str, int]) -> dict[str, str]:
    """The special tokens that begin and end a text, by their names in transformers."""
    found = next((pair for pair in ENDS if all(token in specials for token in pair)), ())
    return dict(zip(("bos_token", "eos_token"), found))


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
    config |= _ends(tokenizer.specials)
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
    """Whether a folder is empty, or holds a model of transformers and nothing else."""
    if not folder.is_dir():
        return False
    names = temporary.names(folder)
    if not names:
        return True
    theirs = {CONFIG, MODEL} <= names <= {CONFIG, MODEL, *TOKENIZER}
    return theirs and is_model(read_json(folder / CONFIG))
