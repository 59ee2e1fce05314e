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

from .. import engine
from .._version import __version__
from ..architecture import additions
from ..architecture.config import LONGEST, Config
from ..architecture.fields import from_dict, to_dict
from ..architecture.parameters import Flat
from ..errors import InputError
from ..storage import temporary
from ..storage.atomic import StrPath, explained, named, write_json
from ..storage.files import pickled, pickled_in, read_json
from ..storage.folders import replace_folder
from ..storage.safetensors_file import DTYPES as STORED
from ..storage.safetensors_file import tensors
from ..storage.shipped import OWN, models
from ..storage.states import one_state, place_of
from ..tokenizers import Tokenizer
from ..tokenizers import load as load_tokenizer

CONFIG = "config.json"
MODEL = "model.safetensors"
TOKENIZER = "tokenizer.json"
OPTIMIZER = "optimizer.safetensors"  # this and the next are there only in a run's checkpoint
STATE = "state.json"
PLACES = "best", "last"  # of the checkpoints in a run's folder; the last has the state

DTYPES = "float32", "float64"  # of the parameters of a model that is saved
STORABLE = (
    "float16",
    *DTYPES,
)  # in which a file may hold them; float16 is read as float32, which holds it exactly
SPELLED = {np.dtype(d).name: name for name, d in STORED.items() if name not in ("BF16", "BOOL")}

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
    additions: tuple[Any, ...]
    template: Mapping[str, Any] | None


class Optimizer(Protocol):
    """What is saved of an optimizer: arrays by name, such as AdamW's moments.

    Their names, shapes and dtypes are the same from the beginning on, so a file is held to a new one's.
    """

    def state(self) -> Mapping[str, NDArray[Any]]:
        """All that the next steps depend on besides the parameters."""

    def load_state(self, arrays: Mapping[str, NDArray[Any]], steps: int) -> None:
        """Take over a state that was saved after so many steps, or raise InputError and stay as it was."""


def save(
    folder: StrPath,
    model: Model,
    optimizer: Optimizer | None = None,
    state: dict[str, Any] | None = None,
    dtype: str | None = None,
) -> None:
    """Write a checkpoint: a model and, for a run to resume from, an optimizer's and the run's state.

    dtype: in which the parameters are stored, one of STORABLE; their own unless given.

    A checkpoint that was in the folder stays whole until the new one is, even if the process is killed or the
    disk fills up. None is replaced that has a file which the new one lacks, and none is written that load()
    would refuse.
    """
    folder = named(folder)
    dtype = stored_dtype(model, dtype)
    expect_loadable(model)
    params = as_stored(model.params.to("reference"), dtype)
    moments = {} if optimizer is None else _moments("save", optimizer, UNWRITTEN)
    _expect_finite("save", moments, UNWRITTEN)
    config = {"numgpt": __version__, "dtype": dtype, "seed": model.seed, "config": to_dict(model.config)}
    if model.additions:
        config["additions"] = additions.as_json(model.additions)
    if model.template is not None:
        config["template"] = dict(model.template)

    def expect(place: Path) -> None:
        if not _may_replace(place):
            raise InputError(
                f"{folder}: exists and is not just a checkpoint of numgpt, expected a new folder or one to"
                " replace: choose another name"
            )

    def write(new: Path) -> None:
        write_json(new / CONFIG, config)
        write_tensors(new / MODEL, params)
        if model.tokenizer is not None:
            write_json(new / TOKENIZER, model.tokenizer.state())
        if optimizer is not None:
            write_tensors(new / OPTIMIZER, moments)
        if state is not None:
            steps = getattr(optimizer, "steps", None)
            write_json(new / STATE, ({} if steps is None else {"updates": steps}) | state)

    replace_folder(folder, write, expect)


def stored_dtype(model: Model, dtype: str | None) -> str:
    """The dtype in which a file is to hold a model's parameters; InputError where it cannot."""
    own = model.params.dtype.name
    if own not in DTYPES:
        raise InputError(
            f"save: a {own} model does not fit a file, expected {' or '.join(DTYPES)}: use"
            " model.astype('float64')"
        )
    if dtype is not None and dtype not in STORABLE:
        raise InputError(f"save: dtype {dtype!r} is unknown, expected one of {', '.join(STORABLE)}")
    return dtype or own


def as_stored(arrays: Mapping[str, NDArray[Any]], dtype: str) -> dict[str, NDArray[Any]]:
    """Arrays in the dtype of a file; InputError for a number that is beyond its largest."""
    stored = {}
    for name, array in arrays.items():
        if array.dtype.kind in "iu":  # rounded already
            stored[name] = np.ascontiguousarray(array)
            continue
        with np.errstate(over="ignore"):
            stored[name] = np.ascontiguousarray(array, dtype)
        if not np.isfinite(stored[name]).all() and np.isfinite(array).all():
            raise InputError(
                f"save: {name} holds {np.abs(array).max():.6g}, expected at most {np.finfo(dtype).max:.6g},"
                f" {dtype}'s largest number: choose a longer dtype"
            )
    return stored


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


def _moments(who: StrPath, optimizer: Optimizer, advice: str) -> dict[str, NDArray[Any]]:
    """An optimizer's state by name, as a file holds it; InputError for what none has a place for."""
    try:
        given = optimizer.state()
    except InputError as error:
        raise InputError(f"{who}: {error}: {advice}") from error
    optimizers = f"{who}: the state of {type(optimizer).__name__}"
    if not isinstance(given, Mapping):
        raise InputError(f"{optimizers} is {type(given).__name__}, expected a mapping of names to arrays")
    arrays = {name: np.asarray(engine.home(array), order="C") for name, array in given.items()}
    for name, array in arrays.items():
        if not isinstance(name, str) or array.dtype.name not in SPELLED:
            raise InputError(
                f"{optimizers} has {name!r} of {array.dtype}, expected strings as names and arrays of"
                f" {', '.join(SPELLED)}"
            )
    return arrays


def load(folder: StrPath) -> dict[str, Any]:
    """The arguments of GPT from a checkpoint; every name, shape, dtype and value is checked."""
    return one_state(folder, find, _load)


def _load(folder: Path) -> dict[str, Any]:
    stored = read_json(folder / CONFIG)
    if not _is_config(stored):
        raise InputError(
            f"{folder / CONFIG}: is not numgpt's, expected a config and a dtype of {', '.join(STORABLE)}, or"
            " the model_type of transformers"
        )
    try:
        config = from_dict(Config, stored["config"])
        added = additions.from_json(stored.get("additions", []))
        expected = additions.all_shapes(config, added)
        integers = additions.integers(config, added)
    except InputError as error:
        raise InputError(f"{folder / CONFIG}: {error}") from error
    params = _load_parameters(folder / MODEL, expected, integers, stored["dtype"])
    return {
        "config": config,
        "seed": stored["seed"],
        "dtype": params.dtype,
        "tokenizer": _load_tokenizer(folder / TOKENIZER, config),
        "params": params,
        "additions": added,
        "template": _template(folder / CONFIG, stored.get("template")),
    }


def _template(path: Path, stored: Any) -> dict[str, Any] | None:
    """The state of a chat template, as far as it can be seen without reading it."""
    if stored is None or isinstance(stored, dict):
        return stored
    raise InputError(f"{path}: template is {type(stored).__name__}, expected a mapping")


def _load_parameters(
    path: Path,
    expected: Mapping[str, tuple[int, ...]],
    integers: Mapping[str, tuple[str, tuple[int, ...]]],
    dtype: str,
) -> Flat:
    """Parameters from a file: floats of the shapes that are expected, and integers of types and shapes."""
    shapes = {**expected, **{name: shape for name, (_, shape) in integers.items()}}
    dtypes = {**dict.fromkeys(expected, dtype), **{name: kind for name, (kind, _) in integers.items()}}
    arrays = read_tensors(path, shapes, dtypes)  # before memory is taken for what the config claims
    kept = {name: np.array(arrays[name]) for name in integers}
    params = Flat(expected, "float32" if dtype == "float16" else dtype, integers=kept)
    for name in expected:
        params[name] = arrays[name]
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
    """Have an optimizer take over its state from the checkpoint of a run; returns the state saved with it.

    model: that which goes on with them; an error unless its parameters are the checkpoint's. If anything is
    refused, the optimizer stays as it was.
    """
    now = _moments(folder, optimizer, "give a new optimizer")
    expected = {name: array.shape for name, array in now.items()}
    dtypes = {name: array.dtype.name for name, array in now.items()}

    def read(place: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        if model is not None:
            _expect_model(place, model.params.to("reference"))
        return _read_state(place), read_tensors(place / OPTIMIZER, expected, dtypes)

    state, arrays = one_state(folder, find, read)
    path = find(folder) / OPTIMIZER
    _expect_finite(path, arrays, EARLIER)
    try:
        optimizer.load_state(arrays, _moved(state))
    except InputError as error:
        raise InputError(f"{path}: {error}: {EARLIER}") from error
    return state


def _moved(state: Mapping[str, Any]) -> int:
    """How many updates an optimizer made: all steps of the run, but for those that were left out."""
    updates: int = state["updates"]
    moved = state.get("moved", updates)
    if type(moved) is not int or not 0 <= moved <= updates:
        raise InputError(f"moved is {str(moved)[:80]}, expected 0 to {updates}")
    return moved


def _expect_model(folder: Path, params: Flat) -> None:
    """Raise InputError unless parameters are those of a checkpoint."""
    shapes = {name: array.shape for name, array in params.items()}
    stored = read_tensors(folder / MODEL, shapes, {name: a.dtype.name for name, a in params.items()})
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
        own = f"{OWN}{folder}"
        advice = f"; numgpt's own of this name is {own}" if own in models() else ""
        raise InputError(
            f"{folder}: does not exist, expected a checkpoint's folder, such as numgpt train writes{advice}"
        )
    weights = pickled_in(folder)
    if weights is not None:
        raise pickled(weights)
    raise InputError(
        f"{folder}: holds no checkpoint, expected a folder with {CONFIG} and {MODEL}, or a run with best or"
        " last in it"
    )


def read_tensors(
    path: StrPath, expected: Mapping[str, tuple[int, ...]], dtype: str | Mapping[str, str]
) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file, memory-mapped.

    InputError unless their names and shapes are the expected ones and their dtypes are dtype, which is one
    for all or one for each name.
    """
    stored = tensors(path)
    expect_names(path, stored, expected)
    for name, shape in expected.items():
        stored_dtype, array = stored[name]
        wanted = dtype if isinstance(dtype, str) else dtype[name]
        spelled = SPELLED.get(wanted, wanted)
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
        and stored.get("dtype") in STORABLE  # a tuple, as the file may hold what a dict cannot look up
        and isinstance(stored.get("config"), dict)
        and isinstance(stored.get("seed"), int)
    )


def write_tensors(path: Path, arrays: Mapping[str, NDArray[Any]], config: str = CONFIG) -> None:
    """Write arrays as a safetensors file beside the file of a folder's config, which is there already."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(dict(arrays), path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path}: could not be written ({error})") from error
    shutil.copymode(path.with_name(config), path)  # safetensors makes it private, whatever the umask
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
