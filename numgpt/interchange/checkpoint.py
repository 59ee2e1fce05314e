"""Checkpoints: folders of safetensors and JSON, replaced as a whole, so that one is never half written."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .._version import __version__
from ..architecture.config import LONGEST, Config, from_dict, to_dict
from ..architecture.parameters import Flat, shapes
from ..errors import InputError
from ..storage import temporary
from ..storage.atomic import StrPath, explained, named, write_json
from ..storage.files import pickled, pickled_in, read_json
from ..storage.folders import replace_folder
from ..storage.safetensors_file import tensors
from ..storage.states import one_state, place_of
from ..tokenizers import Tokenizer
from ..tokenizers import load as load_tokenizer

CONFIG = "config.json"
MODEL = "model.safetensors"
TOKENIZER = "tokenizer.json"
OPTIMIZER = "optimizer.safetensors"  # this and the next are there only in a run's checkpoint
STATE = "state.json"
PLACES = "best", "last"  # of the checkpoints in a run's folder; the last has the state

DTYPES = {"float32": "F32", "float64": "F64"}  # of the parameters → as safetensors spells it

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

EARLIER = "use an earlier checkpoint"  # the advice for numbers that went bad
UNWRITTEN = "nothing was written; go on from an earlier checkpoint"


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
    disk fills up. None is replaced that has a file which the new one lacks, and none is written that load()
    would refuse.
    """
    folder = named(folder)
    dtype = model.params.dtype.name
    if dtype not in DTYPES:
        raise InputError(
            f"save: a {dtype} model does not fit a checkpoint, expected {' or '.join(DTYPES)}: use"
            " model.astype('float64')"
        )
    expect_loadable(model)
    moments = {} if optimizer is None else _moments(optimizer)
    _expect_moments("save", moments, UNWRITTEN)
    config = {"numgpt": __version__, "dtype": dtype, "seed": model.seed, "config": to_dict(model.config)}

    def expect(place: Path) -> None:
        if not _may_replace(place):
            raise InputError(
                f"{folder}: exists and is not just a checkpoint of numgpt, expected a new folder or one to"
                " replace: choose another name"
            )

    def write(new: Path) -> None:
        write_json(new / CONFIG, config)
        write_tensors(new / MODEL, model.params.to("reference"))
        if model.tokenizer is not None:
            write_json(new / TOKENIZER, model.tokenizer.state())
        if optimizer is not None:
            write_tensors(new / OPTIMIZER, moments)
        if state is not None:
            updates = {"updates": optimizer.steps} if optimizer is not None else {}
            write_json(new / STATE, state | updates)

    replace_folder(folder, write, expect)


def expect_loadable(model: Model) -> None:
    """Raise InputError for a model that could be written, and that load() would refuse afterwards."""
    bad = model.params.first_not_finite()
    if bad:
        raise _not_finite("save", bad, UNWRITTEN)
    tokenizer, V = model.tokenizer, model.config.vocab_size
    if tokenizer is not None and tokenizer.vocab_size > V:
        raise InputError(
            f"save: the tokenizer has {tokenizer.vocab_size:,} tokens, expected at most the model's"
            f" vocab_size of {V:,}: give the model its own tokenizer"
        )


def _moments(optimizer: Optimizer) -> dict[str, NDArray[Any]]:
    """An optimizer's moments by the names that a file has for them."""
    m, v = optimizer.m.to("reference"), optimizer.v.to("reference")
    return {f"m.{name}": m[name] for name in m} | {f"v.{name}": v[name] for name in v}


def load(folder: StrPath) -> dict[str, Any]:
    """The arguments of GPT from a checkpoint; every name, shape, dtype and value is checked."""
    return one_state(folder, find, _load)


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
    _expect_finite(path, params, EARLIER)
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


def load_state(folder: StrPath, optimizer: Optimizer, model: Model | None = None) -> dict[str, Any]:
    """Fill an optimizer's moments from the checkpoint of a run; returns the state that was saved with it.

    model: that which goes on with them; an error unless its parameters are the checkpoint's. If anything is
    refused, the optimizer stays as it was.
    """

    def read(place: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        if model is not None:
            _expect_model(place, model.params.to("reference"))
        return _read_state(place), read_tensors(place / OPTIMIZER, expected, m.dtype.name)

    m, v = optimizer.m, optimizer.v
    expected = {f"{moment}.{name}": shape for moment in "mv" for name, shape in m.shapes.items()}
    state, arrays = one_state(folder, find, read)
    _expect_moments(find(folder) / OPTIMIZER, arrays, EARLIER)
    for name in m:
        m[name] = arrays[f"m.{name}"]
        v[name] = arrays[f"v.{name}"]
    optimizer.steps = state["updates"]
    return state


def _expect_moments(who: StrPath, arrays: Mapping[str, NDArray[Any]], advice: str) -> None:
    """Raise InputError unless arrays are moments: finite, and means of squares where their name says v."""
    _expect_finite(who, arrays, advice)
    squares = (name for name in arrays if name.startswith("v."))
    negative = next((name for name in squares if (arrays[name] < 0).any()), None)
    if negative:
        raise InputError(f"{who}: {negative} holds a negative number, expected means of squares: {advice}")


def _expect_model(folder: Path, params: Flat) -> None:
    """Raise InputError unless parameters are those of a checkpoint."""
    stored = read_tensors(folder / MODEL, params.shapes, params.dtype.name)
    different = next((name for name in params if not np.array_equal(stored[name], params[name])), None)
    if different:
        raise InputError(
            f"{folder}: {different} is not that of the model that would go on from here, expected the"
            f" checkpoint's own model: give GPT.load({str(folder)!r})"
        )


def read_state(folder: StrPath) -> dict[str, Any]:
    """The state of a run that was saved with its checkpoint, its entries checked."""
    return one_state(folder, find, _read_state)


def _read_state(folder: Path) -> dict[str, Any]:
    path = folder / STATE
    if not path.exists():
        raise InputError(f"{folder}: holds a model but no run to resume, expected {STATE} and {OPTIMIZER}")
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
    return place_of(Path(folder), CONFIG) is not None


def is_run(folder: StrPath) -> bool:
    """Whether a folder holds the checkpoint of a run, which has a state besides its model."""
    return place_of(Path(folder), STATE) is not None


def find(folder: StrPath) -> Path:
    """The checkpoint at a path: the folder itself, or a run's best, or else its last.

    If a save that is under way, or was killed, left the old folder beside its place, or the new one in it,
    that one is taken; nothing is moved.
    """
    folder = Path(folder)
    for candidate in (folder, *(folder / name for name in PLACES)):
        place = place_of(candidate, CONFIG)
        if place is not None:
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


def _expect_finite(who: StrPath, arrays: Mapping[str, NDArray[Any]], advice: str) -> None:
    bad = next((name for name, array in arrays.items() if not np.isfinite(array).all()), None)
    if bad:
        raise _not_finite(who, bad, advice)


def _not_finite(who: StrPath, name: str, advice: str) -> InputError:
    return InputError(f"{who}: {name} holds NaN or infinity, expected finite numbers: {advice}")


def _may_replace(folder: Path) -> bool:
    """Whether a folder is empty, or holds a checkpoint of numgpt and nothing else."""
    if not folder.is_dir():
        return False
    names = temporary.names(folder)
    if not names:
        return True
    ours = names <= {MODEL, OPTIMIZER, CONFIG, TOKENIZER, STATE}
    return ours and CONFIG in names and _is_config(read_json(folder / CONFIG))


def expect_no_run(folder: StrPath) -> None:
    """Raise InputError for a folder that a run saves to: only the run itself may write there."""
    place = Path(os.path.realpath(folder))
    with explained(folder, "a folder to write to"):
        belongs = is_run(place) or (place.name in PLACES and is_run(place.with_name(PLACES[-1])))
    if belongs:
        raise InputError(
            f"{folder}: belongs to a run, which alone may write there; expected a new folder or a model of"
            " your own to replace: choose another name"
        )


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
