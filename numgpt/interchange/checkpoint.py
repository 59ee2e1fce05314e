"""Checkpoints: folders of safetensors and JSON, replaced as a whole, so that one is never half written."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .._version import __version__
from ..architecture.config import LONGEST, Config, from_dict, to_dict
from ..architecture.parameters import Flat, shapes
from ..errors import InputError
from ..storage.atomic import OLD, StrPath, beside, replace_folder, write_json
from ..storage.files import Missing, pickled, pickled_in, read_json
from ..storage.safetensors_file import tensors
from ..tokenizers import Tokenizer
from ..tokenizers import load as load_tokenizer

CONFIG = "config.json"
MODEL = "model.safetensors"
TOKENIZER = "tokenizer.json"
OPTIMIZER = "optimizer.safetensors"  # this and the next are there only in a run's checkpoint
STATE = "state.json"

DTYPES = {"float32": "F32", "float64": "F64"}  # of the parameters → as safetensors spells it
ATTEMPTS = 8  # to read a folder that a run may be replacing

# The entries of state.json, with their types.
STATE_TYPES: dict[str, Any] = {
    "updates": int,
    "best": float | None,
    "held_out": float | None,
    "source": str,
    "recipe": dict,
    "digest": str,
    "training": dict,
}


class Model(Protocol):
    """What is saved of a GPT."""

    config: Config
    seed: int
    tokenizer: Tokenizer | None
    params: Flat


class Optimizer(Protocol):
    """What is saved of AdamW: its moments, and how many steps it has taken."""

    m: Flat
    v: Flat
    steps: int


def save(
    folder: StrPath, model: Model, optimizer: Optimizer | None = None, state: dict[str, Any] | None = None
) -> None:
    """Write a checkpoint: a model and, for a run to resume from, an optimizer's moments and the run's state.

    A checkpoint that was in the folder stays whole until the new one is, even if the process is killed or the
    disk fills up.
    """
    folder = Path(folder)
    dtype = model.params.dtype.name
    if dtype not in DTYPES:
        raise InputError(
            f"save: a {dtype} model does not fit a checkpoint, expected {' or '.join(DTYPES)}: use"
            " model.astype('float64')"
        )
    if folder.exists() and not _may_replace(folder):
        raise InputError(
            f"{folder}: exists and is not just a checkpoint of numgpt, expected a new folder or one to"
            " replace: choose another name"
        )
    config = {"numgpt": __version__, "dtype": dtype, "seed": model.seed, "config": to_dict(model.config)}

    def write(new: Path) -> None:
        write_json(new / CONFIG, config)
        write_tensors(new / MODEL, model.params.to("reference"))
        if model.tokenizer is not None:
            write_json(new / TOKENIZER, model.tokenizer.state())
        if optimizer is not None:
            m, v = optimizer.m.to("reference"), optimizer.v.to("reference")
            moments = {f"m.{name}": m[name] for name in m} | {f"v.{name}": v[name] for name in v}
            write_tensors(new / OPTIMIZER, moments)
        if state is not None:
            updates = {"updates": optimizer.steps} if optimizer is not None else {}
            write_json(new / STATE, state | updates)

    replace_folder(folder, write)


def load(folder: StrPath) -> dict[str, Any]:
    """The arguments of GPT from a checkpoint; every name, shape, dtype and value is checked."""
    for attempt in range(ATTEMPTS):  # a run that saves at this moment swaps the folder while it is read
        if attempt:
            time.sleep(0.001 * 2**attempt)  # ever longer, so as not to keep step with the run
        place = find(folder)
        try:
            before = os.stat(place).st_ino
            arguments = _load(place)
            if os.stat(place).st_ino == before:
                return arguments
        except (Missing, FileNotFoundError):
            if attempt == ATTEMPTS - 1:
                raise
    raise InputError(
        f"{folder}: was replaced again and again while it was read, expected it to stay: try again later"
    )


def _load(folder: Path) -> dict[str, Any]:
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
    params = _load_parameters(folder / MODEL, config, stored["dtype"])
    return {
        "config": config,
        "seed": stored["seed"],
        "dtype": params.dtype,
        "tokenizer": _load_tokenizer(folder / TOKENIZER, config),
        "params": params,
    }


def _load_parameters(path: Path, config: Config, dtype: str) -> Flat:
    expected = shapes(config)
    arrays = read_tensors(path, expected, dtype)  # before memory is taken for what the config claims
    params = Flat(expected, dtype)
    for name, array in arrays.items():
        params[name] = array
    _expect_finite(path, params)
    return params


def _load_tokenizer(path: Path, config: Config) -> Tokenizer | None:
    if not path.exists():
        return None
    tokenizer = load_tokenizer(path)
    if tokenizer.vocab_size > config.vocab_size:  # fewer are fine: models are padded to round numbers
        raise InputError(
            f"{path}: has {tokenizer.vocab_size} tokens, expected at most {config.vocab_size} as in {CONFIG}"
        )
    return tokenizer


def load_state(folder: StrPath, optimizer: Optimizer) -> dict[str, Any]:
    """Fill an optimizer's moments from a checkpoint; returns the state that was saved with it.

    If anything is refused, the optimizer stays as it was.
    """
    folder = find(folder)
    state = read_state(folder)
    path = folder / OPTIMIZER
    m, v = optimizer.m, optimizer.v
    expected = {f"{moment}.{name}": shape for moment in "mv" for name, shape in m.shapes.items()}
    arrays = read_tensors(path, expected, m.dtype.name)
    _expect_finite(path, arrays)
    negative = next((f"v.{name}" for name in v if (arrays[f"v.{name}"] < 0).any()), None)
    if negative:
        raise InputError(
            f"{path}: {negative} holds a negative number, expected means of squares: use an earlier"
            " checkpoint"
        )
    for name in m:
        m[name] = arrays[f"m.{name}"]
        v[name] = arrays[f"v.{name}"]
    optimizer.steps = state["updates"]
    return state


def read_state(folder: StrPath) -> dict[str, Any]:
    """The state of a run that was saved with its checkpoint, its entries checked."""
    path = find(folder) / STATE
    if not path.exists():
        raise InputError(
            f"{path.parent}: holds a model but no run to resume, expected {STATE} and {OPTIMIZER}"
        )
    state = read_json(path, halves=True)  # names of files that are not UTF-8 are in its recipe
    for name, kind in STATE_TYPES.items():
        if not isinstance(state, dict) or name not in state:
            problem = f"no {name}"
        elif not _fits(name, state[name], kind):
            problem = f"{name} {state[name]!r}"
        else:
            continue
        raise InputError(
            f"{path}: has {problem}, expected the file as numgpt wrote it: use another checkpoint"
        )
    return state


def _fits(name: str, value: Any, kind: Any) -> bool:
    """Whether an entry of a state has its type and a possible value."""
    if isinstance(value, bool) or not isinstance(value, kind):  # a bool counts as an int for isinstance
        return False
    if isinstance(value, float):
        return math.isfinite(value)
    return name != "updates" or 0 <= value <= LONGEST


def is_checkpoint(folder: StrPath) -> bool:
    """Whether a folder holds a model of numgpt."""
    return (Path(folder) / CONFIG).is_file()


def find(folder: StrPath) -> Path:
    """The checkpoint at a path: the folder itself, or a run's best, or else its last.

    If a killed save left the old folder beside its place, that one is taken; nothing is moved.
    """
    folder = Path(folder)
    for candidate in (folder, folder / "best", folder / "last"):
        for place in (candidate, beside(candidate, OLD)):
            if is_checkpoint(place):
                return place
    if not folder.exists():
        raise InputError(
            f"{folder}: does not exist, expected a checkpoint's folder, such as numgpt train writes"
        )
    weights = pickled_in(folder)
    if weights is not None:
        raise pickled(weights)
    raise InputError(
        f"{folder}: holds no checkpoint, expected a folder with {CONFIG} and {MODEL}, or a run with best or"
        " last in it"
    )


def read_tensors(
    path: StrPath, expected: Mapping[str, tuple[int, ...]], dtype: str
) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file, memory-mapped.

    InputError unless their names and shapes are the expected ones and their dtypes are dtype.
    """
    stored = tensors(path)
    expect_names(path, stored, expected)
    spelled = DTYPES.get(dtype, dtype)
    for name, shape in expected.items():
        stored_dtype, array = stored[name]
        if array.shape != shape:
            raise InputError(f"{path}: {name} has shape {array.shape}, expected {shape} from {CONFIG}")
        if stored_dtype != spelled:
            raise InputError(f"{path}: {name} has dtype {stored_dtype}, expected {spelled} from {CONFIG}")
    return {name: stored[name][1] for name in expected}


def expect_names(path: StrPath, actual: Iterable[str], expected: Iterable[str]) -> None:
    """Raise InputError unless the names of arrays are the expected ones."""
    actual, expected = set(actual), set(expected)
    different = sorted(actual ^ expected)
    if different:
        problem = "not expected" if different[0] in actual else "missing"
        raise InputError(
            f"{path}: {different[0]} is {problem}, expected the {len(expected)} arrays of its {CONFIG}"
        )


def _expect_finite(path: StrPath, arrays: Mapping[str, NDArray[Any]]) -> None:
    bad = next((name for name, array in arrays.items() if not np.isfinite(array).all()), None)
    if bad:
        raise InputError(
            f"{path}: {bad} holds NaN or infinity, expected finite numbers: use an earlier checkpoint"
        )


def _may_replace(folder: Path) -> bool:
    """Whether a folder is empty, or holds a checkpoint of numgpt and nothing else."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    if not names:
        return True
    ours = names <= {MODEL, OPTIMIZER, CONFIG, TOKENIZER, STATE}
    return ours and CONFIG in names and _is_config(read_json(folder / CONFIG))


def _is_config(stored: Any) -> bool:
    return (
        isinstance(stored, dict)
        and stored.get("dtype") in list(DTYPES)  # a list, as the file may hold what a dict cannot look up
        and isinstance(stored.get("config"), dict)
        and isinstance(stored.get("seed"), int)
    )


def write_tensors(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as a safetensors file beside a folder's config.json."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(dict(arrays), path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path}: could not be written ({error})") from error
    shutil.copymode(path.with_name(CONFIG), path)  # safetensors makes it private, whatever the umask
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
