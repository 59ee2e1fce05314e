"""GPT-2 as transformers keeps it, read and written without PyTorch: config.json and model.safetensors, whole
or in shards.
"""

import json
import re
import warnings
from pathlib import Path

import numpy as np

from .. import tokenizers
from ..architecture.config import Config
from ..architecture.parameters import Flat, shapes
from ..errors import InputError
from ..storage import atomic
from ..storage.files import Missing, read_json, tensors
from ..tokenizers import gpt2_files
from ..tokenizers.files import as_bpe, huggingface_bytes
from . import checkpoint

CONFIG, MODEL, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu"}
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float32",
    "BF16": "float32",
}  # of a file → of the parameters
SHARD = re.compile(r"[\w-][\w.-]{0,200}\.safetensors", re.ASCII)
MASKS = re.compile(
    r"h\.\d+\.attn\.(bias|masked_bias)"
)  # buffers that older files carry beside the parameters


def find(place):
    """The folder of a GPT-2 of transformers: place itself, or for "hf:" and a name what the hub gives; None
    for any other.
    """
    if str(place).startswith("hf:"):
        return download(str(place)[3:])
    path = Path(place) / CONFIG
    try:
        return Path(place) if path.is_file() and is_model(read_json(path)) else None
    except Missing:  # a run that saves in this moment swaps the folder: it is none of transformers'
        return None


def is_model(config):
    """Whether what a config.json holds is that of a GPT-2 of transformers."""
    return isinstance(config, dict) and config.get("model_type") == "gpt2"


def load(folder):
    """The arguments of GPT from a folder, every name, shape, dtype and value checked.

    float16 and bfloat16 become float32, which holds them exactly. Names with and without "transformer." are
    known.
    """
    folder = Path(folder)
    stored = read_json(folder / CONFIG)
    config = config_from(stored, folder / CONFIG)
    files = _files(folder)
    entries = {}
    for file in files:
        for name, (dtype, array) in tensors(file).items():
            short = name.removeprefix("transformer.")
            if short in entries:
                raise InputError(f"{file}: {name} is there twice, expected each array once")
            if not MASKS.fullmatch(short):
                entries[short] = (file, dtype, array)
    for name, (file, dtype, _) in entries.items():
        if dtype not in DTYPES:
            raise InputError(f"{file}: {name} has dtype {dtype}, expected one of {', '.join(DTYPES)}")
    wanted = shapes(config)
    head = entries.pop("lm_head.weight", None) if config.tied else None
    odd = sorted(set(entries) ^ set(wanted))
    if odd:
        raise InputError(
            f"{folder}: {odd[0]} is {'not expected' if odd[0] in entries else 'missing'}, expected the"
            f" {len(wanted)} arrays of its {CONFIG}"
        )
    for name, (file, _, array) in entries.items():
        if array.shape != wanted[name]:
            raise InputError(f"{file}: {name} has shape {array.shape}, expected {wanted[name]} from {CONFIG}")
    params = Flat(wanted, "float64" if any(dtype == "F64" for _, dtype, _ in entries.values()) else "float32")
    with np.errstate(invalid="ignore"):  # a NaN that signals, which is found below, where its dtype changes
        for name, (_, dtype, array) in entries.items():
            params[name] = _numbers(dtype, array)
        bad = params.first_not_finite()
        if bad:
            raise InputError(f"{folder}: {bad} holds NaN or infinity, expected finite numbers")
        same = head is None or np.array_equal(_numbers(*head[1:]), params["wte.weight"])
    if not same:
        raise InputError(
            f"{folder}: lm_head.weight is not wte.weight, which {CONFIG} says it is: set tie_word_embeddings"
            " to false there"
        )
    return {
        "config": config,
        "seed": 0,
        "dtype": params.dtype,
        "tokenizer": _tokenizer(folder, config),
        "params": params,
    }


def _tokenizer(folder, config):
    """The tokenizer beside a model. Where numgpt cannot read it, None and a warning: the model can be used
    without it.

    It may have fewer tokens than the model, whose vocabulary is often padded to a round number.
    """
    try:
        tokenizer = tokenizers.load(folder)
        if tokenizer.vocab_size > config.vocab_size:
            raise InputError(
                f"{folder}: the tokenizer has {tokenizer.vocab_size:,} tokens, expected at most the"
                f" {config.vocab_size:,} of {CONFIG}"
            )
        return tokenizer
    except Missing:
        return None
    except InputError as error:
        warnings.warn(f"{error}; the model is loaded without its tokenizer", stacklevel=4)
        return None


def config_from(stored, path):
    """The Config that a config.json of transformers describes; InputError for a form of GPT-2 that numgpt
    does not compute.
    """
    if not is_model(stored):
        raise InputError(f"{path}: is not a GPT-2's, expected model_type gpt2")
    for name, expected in (
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("add_cross_attention", False),
    ):
        if stored.get(name, expected) != expected:
            raise InputError(
                f"{path}: {name} is {stored[name]}, expected {str(expected).lower()}: that form of attention"
                " is not computed here"
            )
    activation = stored.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise InputError(
            f"{path}: activation_function is {activation!r}, expected one of {', '.join(ACTIVATIONS)}"
        )
    rates = set()
    for name in ("embd_pdrop", "attn_pdrop", "resid_pdrop"):
        rate = stored.get(name, 0.1)
        if not isinstance(rate, int | float) or not 0 <= rate < 1:
            raise InputError(f"{path}: {name} is {rate!r}, expected a number of 0 to below 1")
        rates.add(float(rate))
    fields = {
        "vocab_size": "vocab_size",
        "block_size": "n_positions",
        "n_layer": "n_layer",
        "n_head": "n_head",
        "n_embd": "n_embd",
        "n_inner": "n_inner",
    }
    fields |= {"tied": "tie_word_embeddings", "layer_norm_epsilon": "layer_norm_epsilon"}
    values = {ours: stored[theirs] for ours, theirs in fields.items() if theirs in stored}
    try:
        # One rate for all dropout here. Where they differ none is used: that is how a model is read, not
        # trained.
        return Config(
            **values, activation=ACTIVATIONS[activation], dropout=rates.pop() if len(rates) == 1 else 0.0
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def save(folder, model):
    """Write a model so that transformers' from_pretrained reads it, and its tokenizer where transformers has
    one that gives the same ids.

    Biases that the model does not have are written as 0.
    """
    c, folder = model.config, Path(folder)
    if c.norm_position != "pre":
        raise InputError(
            "save: a model with norms after each sum is no GPT-2, expected norm_position pre: save it as"
            " numgpt's own checkpoint"
        )
    if model.params.dtype.name not in checkpoint.DTYPES:
        raise InputError(
            f"save: a {model.params.dtype} model does not fit, expected {' or '.join(checkpoint.DTYPES)}: use"
            " model.astype('float64')"
        )
    if folder.exists() and not _ours(folder):
        raise InputError(
            f"{folder}: exists and is not just {CONFIG}, {MODEL} and tokenizer of a GPT-2, expected a new"
            " folder or one to replace: choose another name"
        )
    arrays = {
        f"transformer.{name}" if name != "lm_head.weight" else name: array
        for name, array in model.params.to("reference").items()
    }
    if not c.bias:
        arrays |= {
            name.replace(".weight", ".bias"): np.zeros_like(a, shape=a.shape[-1:])
            for name, a in arrays.items()
            if ".ln_" in name or ".c_" in name
        }
    activation = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == c.activation)
    config = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "dtype": model.params.dtype.name, "torch_dtype": model.params.dtype.name,
        "vocab_size": c.vocab_size, "n_positions": c.block_size, "n_layer": c.n_layer, "n_head": c.n_head, "n_embd": c.n_embd, "n_inner": c.n_inner,
        "activation_function": activation, "layer_norm_epsilon": c.layer_norm_epsilon, "tie_word_embeddings": c.tied,
        "embd_pdrop": c.dropout, "attn_pdrop": c.dropout, "resid_pdrop": c.dropout,
    }  # fmt: skip
    end = model.tokenizer.specials.get("<|endoftext|>") if model.tokenizer is not None else None
    if (
        end is not None or c.vocab_size <= 50256
    ):  # transformers' default ids for the ends of texts are those of GPT-2's vocabulary
        config |= {"bos_token_id": end, "eos_token_id": end}
    try:
        beside = tokenizer_files(model)
    except InputError:  # for characters, say, there is no such file: convert says so
        beside = {}

    def write(new):
        atomic.write_json(new / CONFIG, config)
        checkpoint.write_tensors(new / MODEL, arrays)
        for name, data in beside.items():
            atomic.write_file(new / name, data)

    atomic.replace_folder(folder, write)


def tokenizer_files(model):
    """Name → bytes of the files by which transformers' AutoTokenizer gives the ids of a model's tokenizer;
    InputError where it cannot.

    vocab.json and merges.txt, for programs that know only these, are left out where they would give other
    ids.
    """
    if model.tokenizer is None:
        return {}
    tokenizer = as_bpe(model.tokenizer)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.config.block_size,
        "clean_up_tokenization_spaces": False,
    }
    if "<|endoftext|>" in tokenizer.specials:
        config |= dict.fromkeys(("bos_token", "eos_token"), "<|endoftext|>")
    found = {
        "tokenizer.json": huggingface_bytes(tokenizer),
        "tokenizer_config.json": (json.dumps(config, indent=1) + "\n").encode(),
    }
    try:
        found["vocab.json"], found["merges.txt"] = gpt2_files.write(tokenizer)
    except InputError:
        pass
    return found


def download(name):
    """The folder of a model that the Hugging Face hub knows by this name, from huggingface_hub's cache or the
    network.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise InputError(
            f"hf:{name}: huggingface_hub is not installed, expected it for a name on the hub: pip install"
            " numgpt[hub]"
        ) from None
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, allow_patterns=[CONFIG, "model*.safetensors", INDEX, *TOKENIZER, "added_tokens.json"]
            )
        )
    except Exception as error:  # of many kinds, from many libraries
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"hf:{name}: the Hugging Face hub did not give it ({reason}), expected a model's name and a"
            " network: download the folder elsewhere"
        ) from error


def _files(folder):
    """The safetensors files of a folder, each of them inside of it."""
    if (folder / MODEL).exists():
        return [folder / MODEL]
    if not (folder / INDEX).exists():
        hint = (
            ": it has only pickled weights, which numgpt does not open; save it with safe_serialization"
            if any(folder.glob("*.bin"))
            else ""
        )
        raise Missing(f"{folder}: has neither {MODEL} nor {INDEX}, expected one of them{hint}")
    index = read_json(folder / INDEX)
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(n, str) for n in names.values()):
        raise InputError(f"{folder / INDEX}: has no weight_map from arrays to files, expected one")
    outside = next((n for n in names.values() if not SHARD.fullmatch(n)), None)
    if outside is not None:
        raise InputError(
            f"{folder / INDEX}: names the file {outside!r}, expected safetensors files in the same folder"
        )
    absent = next((n for n in names.values() if not (folder / n).exists()), None)
    if absent is not None:
        raise Missing(f"{folder / absent}: is missing, expected all files that {INDEX} names")
    return [folder / n for n in sorted(set(names.values()))]


def _numbers(dtype, array):
    """The numbers of an array of a file; bfloat16 is the upper half of a float32."""
    return (array.astype("<u4") << 16).view("<f4") if dtype == "BF16" else array


def _ours(folder):
    """Whether a folder is empty, or holds a GPT-2 of transformers and nothing else: only then may it be
    replaced.
    """
    names = {p.name for p in folder.iterdir()} if folder.is_dir() else {None}
    return not names or (
        {CONFIG, MODEL} <= names <= {CONFIG, MODEL, *TOKENIZER} and is_model(read_json(folder / CONFIG))
    )
