"""Checkpoints: a folder of safetensors and JSON, written beside its place, flushed to disk and renamed: never
half there.
"""

import math
import os
import shutil
import time
from pathlib import Path

import numpy as np

from .._version import __version__
from ..architecture.config import LONGEST, Config, from_dict
from ..architecture.parameters import Flat, shapes
from ..errors import InputError
from ..storage.atomic import OLD, beside, replace_folder, write_json
from ..storage.files import Missing, read_json, tensors
from ..tokenizers import load as load_tokenizer

MODEL, OPTIMIZER, CONFIG, TOKENIZER, STATE = (
    "model.safetensors",
    "optimizer.safetensors",
    "config.json",
    "tokenizer.json",
    "state.json",
)
DTYPES = ("float32", "float64")


def save(folder, model, optimizer=None, state=None):
    """Write a model, and for a run that goes on its optimizer's moments and a dict of its state, to a folder.

    What the folder held before is whole until the new one is, whenever the process is killed or the disk
    fills up.
    """
    folder = Path(folder)
    if model.params.dtype.name not in DTYPES:
        raise InputError(
            f"save: a {model.params.dtype} model does not fit a checkpoint, expected {' or '.join(DTYPES)}:"
            " use model.astype('float64')"
        )
    if folder.exists() and not _ours(folder):
        raise InputError(
            f"{folder}: exists and is not just a checkpoint of numgpt, expected a new folder or one to"
            " replace: choose another name"
        )

    params = model.params.to("reference")

    def write(new):
        config = {
            "numgpt": __version__,
            "dtype": model.params.dtype.name,
            "seed": model.seed,
            "config": vars(model.config),
        }
        write_json(new / CONFIG, config)
        write_tensors(new / MODEL, params)
        if model.tokenizer is not None:
            write_json(new / TOKENIZER, model.tokenizer.state())
        if optimizer is not None:
            write_tensors(
                new / OPTIMIZER,
                {f"{k}.{n}": a for k in "mv" for n, a in getattr(optimizer, k).to("reference").items()},
            )
        if state is not None:
            write_json(new / STATE, state | ({"updates": optimizer.steps} if optimizer else {}))

    replace_folder(folder, write)


def load(folder):
    """The arguments of GPT from a checkpoint's folder, every name, shape, dtype and value checked."""
    for attempt in range(8):  # a run that saves in this moment swaps the folder while it is read
        if attempt:
            time.sleep(0.001 * 2**attempt)  # at no rhythm that another may have
        place = find(folder)
        try:
            before = os.stat(place).st_ino
            found = _load(place)
            if os.stat(place).st_ino == before:
                return found
        except (Missing, FileNotFoundError):
            if attempt == 7:
                raise
    raise InputError(
        f"{folder}: was replaced again and again while it was read, expected it to rest: try once more"
    )


def _load(folder):
    stored = read_json(folder / CONFIG)
    if not _is_config(stored):
        raise InputError(
            f"{folder / CONFIG}: is not numgpt's, expected a config and a dtype of {' or '.join(DTYPES)}, or"
            " a GPT-2 of transformers"
        )
    try:
        config = from_dict(Config, stored["config"])
    except InputError as error:
        raise InputError(f"{folder / CONFIG}: {error}") from error
    wanted = shapes(config)
    arrays = read_tensors(
        folder / MODEL, wanted, stored["dtype"]
    )  # before there is room for what the config says
    params = Flat(wanted, stored["dtype"])
    for name, array in arrays.items():
        params[name] = array
    _expect_finite(folder / MODEL, params)
    tokenizer = load_tokenizer(folder / TOKENIZER) if (folder / TOKENIZER).exists() else None
    if (
        tokenizer is not None and tokenizer.vocab_size > config.vocab_size
    ):  # it may have fewer: vocabularies are padded to round numbers
        raise InputError(
            f"{folder / TOKENIZER}: has {tokenizer.vocab_size} tokens, expected at most {config.vocab_size}"
            f" as in {CONFIG}"
        )
    return {
        "config": config,
        "seed": stored["seed"],
        "dtype": params.dtype,
        "tokenizer": tokenizer,
        "params": params,
    }


def load_state(folder, optimizer):
    """Fill an optimizer's moments from a checkpoint; returns the state that was saved with it."""
    folder, state = find(folder), read_state(folder)
    path, m, v = folder / OPTIMIZER, optimizer.m, optimizer.v
    arrays = read_tensors(
        path, {f"{k}.{n}": shape for k in "mv" for n, shape in m.shapes.items()}, m.dtype.name
    )
    _expect_finite(path, arrays)
    negative = next((f"v.{n}" for n in v if (arrays[f"v.{n}"] < 0).any()), None)
    if negative:
        raise InputError(
            f"{path}: {negative} holds a negative number, expected means of squares: use an earlier"
            " checkpoint"
        )
    for name in m:
        m[name], v[name] = arrays[f"m.{name}"], arrays[f"v.{name}"]
    optimizer.steps = state["updates"]
    return state


def read_state(folder):
    """The state that was saved with a run's checkpoint, its entries checked."""
    path = find(folder) / STATE
    if not path.exists():
        raise InputError(
            f"{path.parent}: holds a model but no run that could go on, expected {STATE} and {OPTIMIZER}"
        )
    state = read_json(path)
    kinds = {
        "updates": int,
        "best": float | None,
        "held_out": float | None,
        "source": str,
        "recipe": dict,
        "digest": str,
        "training": dict,
    }
    for name, kind in kinds.items():
        value = state.get(name, ...) if isinstance(state, dict) else ...
        odd = isinstance(value, bool) or (
            name == "updates" and isinstance(value, int) and not 0 <= value <= LONGEST
        )
        if not isinstance(value, kind) or odd or (isinstance(value, float) and not math.isfinite(value)):
            raise InputError(
                f"{path}: has {'no ' + name if value is ... else f'{name} {value!r}'}, expected the file as"
                " numgpt wrote it: use another checkpoint"
            )
    return state


def is_checkpoint(folder):
    """Whether a folder holds a model of numgpt."""
    return (Path(folder) / CONFIG).is_file()


def find(folder):
    """The checkpoint at a path: the folder itself, or a run's best, else its last one.

    Where a killed save left the folder beside its place, that one; nothing is moved by looking.
    """
    folder = Path(folder)
    for candidate in (folder, folder / "best", folder / "last"):
        for place in (candidate, beside(candidate, OLD)):
            if is_checkpoint(place):
                return place
    if not folder.exists():
        raise InputError(f"{folder}: does not exist, expected a checkpoint's folder: numgpt train makes one")
    raise InputError(
        f"{folder}: holds no checkpoint, expected a folder with {CONFIG} and {MODEL}, or a run with best or"
        " last in it"
    )


def read_tensors(path, wanted, dtype):
    """The arrays of a safetensors file, mapped; InputError unless names, shapes and dtypes are those of
    wanted, name → shape.
    """
    found, kind = tensors(path), {"float32": "F32", "float64": "F64"}.get(dtype, dtype)
    odd = sorted(set(found) ^ set(wanted))
    if odd:
        raise InputError(
            f"{path}: {odd[0]} is {'not expected' if odd[0] in found else 'missing'}, expected the"
            f" {len(wanted)} arrays of its config"
        )
    for name, shape in wanted.items():
        stored, array = found[name]
        if array.shape != shape:
            raise InputError(f"{path}: {name} has shape {array.shape}, expected {shape} from {CONFIG}")
        if stored != kind:
            raise InputError(f"{path}: {name} has dtype {stored}, expected {kind} from {CONFIG}")
    return {name: found[name][1] for name in wanted}


def _expect_finite(path, arrays):
    bad = next((name for name, array in arrays.items() if not np.isfinite(array).all()), None)
    if bad:
        raise InputError(
            f"{path}: {bad} holds NaN or infinity, expected finite numbers: use an earlier checkpoint"
        )


def _ours(folder):
    """Whether a folder is empty, or holds a checkpoint of numgpt and nothing else: only then may it be
    replaced.
    """
    if not folder.is_dir():
        return False
    names = {p.name for p in folder.iterdir()}
    return not names or (
        CONFIG in names
        and names <= {MODEL, OPTIMIZER, CONFIG, TOKENIZER, STATE}
        and _is_config(read_json(folder / CONFIG))
    )


def _is_config(stored):
    return (
        isinstance(stored, dict)
        and stored.get("dtype") in DTYPES
        and isinstance(stored.get("config"), dict)
        and isinstance(stored.get("seed"), int)
    )


def write_tensors(path, arrays):
    """Write a mapping of arrays as safetensors beside a folder's config.json."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file({name: array for name, array in arrays.items()}, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path}: could not be written ({error})") from error
    shutil.copymode(path.with_name(CONFIG), path)  # safetensors makes it private, whatever the umask
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
