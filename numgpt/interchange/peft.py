"""Adapters in PEFT's files, adapter_config.json and adapter_model.safetensors, without PyTorch.

PEFT adapts each linear map of a class of transformers by itself. What numgpt packs in one matrix, queries,
keys and values or gate and value, has there an adapter each: LoRA's by_part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..architecture.additions import Head, LoRA, matrices, part_widths
from ..architecture.config import Config
from ..architecture.parameters import Flat
from ..errors import InputError, did_you_mean, near
from ..storage import safetensors_file, temporary
from ..storage.atomic import StrPath, named, write_json
from ..storage.files import Missing, read_json
from ..storage.folders import replace_folder
from ..storage.safetensors_file import Tensors
from ..storage.states import one_state, place_of
from ..tokenizers import Tokenizer
from . import architectures, checkpoint, peft_keys
from .architectures import ARCHITECTURES, Architecture
from .parameter_names import Piece, lines, placeholders
from .peft_keys import Adapter, Settings
from .tensor_files import DTYPES, Entry, numbers

CONFIG = "adapter_config.json"
MODEL = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
PREFIX = "base_model.model."  # of PEFT's own wrappers, before the name in the model
SCORE = "score.weight"
HALVES = {"lora_A.weight": "lora_a", "lora_B.weight": "lora_b"}


class Model(Protocol):
    """What an adapter is saved of, or loaded into: a GPT."""

    config: Config
    seed: int
    tokenizer: Tokenizer | None
    params: Flat
    additions: tuple[Any, ...]
    template: Mapping[str, Any] | None

    def extended(self, *additions: LoRA | Head) -> Any:
        """The same model with adapters or a head besides."""


class Module(NamedTuple):
    """A linear map of a class of transformers as a part of one of numgpt's matrices.

    piece: its columns. part: which of the maps side by side it is, of how many.
    """

    ours: str
    piece: Piece
    shape: tuple[int, int]
    part: int
    of: int

    @property
    def shapes(self) -> dict[str, int]:
        """The size of each half of its adapter along the axis that is not the rank."""
        return {"lora_a": self.shape[0], "lora_b": self.piece.width}


def modules(kind: Architecture, config: Config) -> dict[str, Module]:
    """The name of each linear map of a class that an adapter may stand beside → where it lies here."""
    adapted = matrices(config)
    named: dict[str, list[tuple[str, Piece]]] = {}
    for name, piece in kind.pieces(config, placeholders(config)).items():
        ours, _, end = piece.ours.rpartition(".")
        if ours in adapted and end == "weight":
            named.setdefault(ours, []).append((f"{kind.prefix}{name.removesuffix('.weight')}", piece))
    return {
        name: Module(ours, piece, adapted[ours], part, len(group))
        for ours, group in named.items()
        for part, (name, piece) in enumerate(group)
    }


# Reading.


def is_adapter(folder: StrPath) -> bool:
    """Whether a folder holds an adapter, and no model."""
    return (Path(folder) / CONFIG).is_file() and not (Path(folder) / "config.json").exists()


def load(folder: StrPath, model: Model, kind: str | None = None) -> Any:
    """A model with the adapter of a folder, and its head if it has one; every name and shape is checked.

    kind: the model_type of the model that it was made for, where several classes of transformers compute it
    with the same names, but with columns in another order, such as Llama and Helium, GPT-2 and GPTBigCode.
    What the file says (auto_mapping) unless given; else the first.

    What the file adapts is trained on from there as PEFT would. A part of a packed matrix that it does not
    adapt has A = 0 and B = 0: such a product gets no gradient, so it stays out when the adapter is saved.
    """
    arrays, additions = one_state(folder, _place, lambda place: _load(place, model, kind))
    added = model.extended(*additions)
    for name, array in arrays.items():
        added.params[name] = array
    return added


def _place(folder: StrPath) -> Path:
    """Where the adapter of a folder lies, also while a save swaps it; Missing where there is none."""
    place = place_of(Path(folder), CONFIG)
    if place is None:
        raise Missing(f"{Path(folder) / CONFIG}: does not exist, expected that of an adapter of PEFT")
    return place


def _load(folder: Path, model: Model, kind: str | None) -> tuple[dict[str, NDArray[Any]], list[LoRA | Head]]:
    """The parameters that the adapter adds, and the additions that they are of."""
    settings = peft_keys.read(read_json(folder / CONFIG), folder / CONFIG)
    file = folder / MODEL
    if not file.exists() and (folder / PICKLED).exists():
        raise InputError(
            f"{folder / PICKLED}: is pickled, which may run code when it is read, expected {MODEL}: load it"
            " with PEFT and save it by save_pretrained(folder)"
        )
    entries = _entries(file, safetensors_file.tensors(file))
    score = entries.pop((SCORE, ""), None) if settings.has_head else None
    if settings.has_head and score is None:
        raise InputError(f"{file}: has no {SCORE}, expected one, for modules_to_save of {CONFIG} names it")
    halves = _halves(file, entries, _classes(settings, model.config, kind), model.config)
    _expect_targets(file, settings, halves)
    arrays: dict[str, NDArray[Any]] = {}
    groups: dict[tuple[int, float, bool], list[str]] = {}
    apart = {ours: next(iter(rows.values()))[0].of > 1 for ours, rows in halves.items()}
    for ours, rows in halves.items():
        rank, alpha = _one_for_all(folder / CONFIG, settings, rows)
        is_one = len(part_widths(model.config, ours, matrices(model.config)[ours][1])) == 1
        by_part = any(apart.values()) if is_one else apart[ours]  # where it says nothing, as the others
        groups.setdefault((rank, alpha, by_part), []).append(ours)
        arrays |= _packed(ours, rows, rank)
    additions: list[LoRA | Head] = [
        LoRA(rank, alpha, _patterns(names, model.config), settings.rslora, by_part)
        for (rank, alpha, by_part), names in groups.items()
    ]
    if score is not None:
        additions += _head(score, model)
        arrays[SCORE] = numbers(score).T
    with np.errstate(invalid="ignore", over="ignore"):  # a signalling NaN, or a number beyond float32's
        arrays = {name: array.astype(model.params.dtype) for name, array in arrays.items()}
    bad = next((name for name, array in arrays.items() if not np.isfinite(array).all()), None)
    if bad is not None:
        raise InputError(
            f"{file}: {bad} holds NaN, infinity or more than {model.params.dtype} does, expected finite"
            " numbers"
        )
    return arrays, additions


def _entries(file: Path, tensors: Tensors) -> dict[tuple[str, str], Entry]:
    """(module, lora_a or lora_b) → its entry; of a head (score.weight, "")."""
    named = {}
    for name, (dtype, array) in tensors.items():
        inner = name.removeprefix(PREFIX)
        half = next((end for end in HALVES if inner.endswith(f".{end}")), "")
        module = inner.removesuffix(f".{half}") if half else inner
        if not name.startswith(PREFIX) or not (half or inner == SCORE):
            raise InputError(
                f"{file}: holds {name}, expected names such as {PREFIX}….lora_A.weight, of linear maps alone:"
                " numgpt reads no other adapters"
            )
        if dtype not in DTYPES:
            raise InputError(f"{file}: {name} has dtype {dtype}, expected one of {', '.join(DTYPES)}")
        named[module, HALVES.get(half, "")] = Entry(file, name, dtype, array)
    return named


Rows = dict[str, tuple[Module, dict[str, Entry]]]  # of one matrix: module's name → where it lies, its halves


def _classes(settings: Settings, config: Config, kind: str | None) -> list[Architecture]:
    """The classes of transformers that the adapter may be made for, the likeliest first."""
    if kind is not None:
        if kind not in ARCHITECTURES:
            raise InputError(
                f"adapted: kind is {kind!r}{did_you_mean(kind, ARCHITECTURES)}, expected a model_type, one of"
                f" {', '.join(ARCHITECTURES)}"
            )
        return [architectures.fitting(config, kind)[1]]
    fitting = [row for row in ARCHITECTURES.values() if not row.differing(config)]
    if not fitting:
        architectures.fitting(config)  # which says why
    return sorted(fitting, key=lambda row: row.model != settings.of_class)


def _halves(
    file: Path, entries: Mapping[tuple[str, str], Entry], classes: list[Architecture], config: Config
) -> dict[str, Rows]:
    """numgpt's name of each matrix that is adapted → its modules; shapes are checked but for the rank."""
    if not entries:
        raise InputError(f"{file}: holds no adapter, expected at least one")
    known = _modules_of(file, {module for module, _ in entries}, classes, config)
    found: dict[str, Rows] = {}
    for (module, half), entry in entries.items():
        place = known[module]
        rows = found.setdefault(place.ours, {})
        rows.setdefault(module, (place, {}))[1][half] = entry
        size, axis = place.shapes[half], 1 if half == "lora_a" else 0
        if entry.array.ndim != 2 or entry.array.shape[axis] != size:
            expected = f"(r, {size})" if axis else f"({size}, r)"
            raise InputError(
                f"{file}: {entry.name} has shape {entry.array.shape}, expected {expected}: it is an adapter"
                " of another model"
            )
    for rows in found.values():
        for module, (_, pair) in rows.items():
            if len(pair) < 2:
                raise InputError(
                    f"{file}: {module} has {' and '.join(pair)} alone, expected both lora_A and lora_B"
                )
    return found


def _modules_of(
    file: Path, names: set[str], classes: list[Architecture], config: Config
) -> dict[str, Module]:
    """The modules of the first of some classes of transformers that has these; InputError for none."""
    tables = [(kind, modules(kind, config)) for kind in classes]
    kind, known = min(tables, key=lambda table: len(names - {*table[1]}))
    missing = sorted(names - {*known})
    if missing:
        meant = near(missing[0], known) or list(known)[:3]
        raise InputError(
            f"{file}: adapts {missing[0]}, expected linear maps that a {kind.name} like this model has, such"
            f" as {', '.join(meant)}: it is an adapter of another model, or of what has none here"
        )
    return known


def _expect_targets(file: Path, settings: Settings, halves: Mapping[str, Rows]) -> None:
    """InputError for an array that PEFT would not read, as target_modules does not name its module."""
    for rows in halves.values():
        for module in rows:
            if not settings.names(module):
                raise InputError(
                    f"{file}: adapts {module}, expected what target_modules of {CONFIG} names,"
                    f" {', '.join((settings.targets or ())[:8])}"
                )


def _one_for_all(path: Path, settings: Settings, rows: Rows) -> tuple[int, float]:
    """The one rank and alpha of the modules of a matrix; InputError where they differ."""
    for module, (_, pair) in rows.items():
        rank = settings.of(module)[0]
        for half, axis in (("lora_a", 0), ("lora_b", 1)):
            found = pair[half].array.shape[axis]
            if found != rank:
                raise InputError(
                    f"{pair[half].file}: {pair[half].name} has rank {found}, expected {rank} as in"
                    f" {path.name}"
                )
    several = {settings.of(module) for module in rows}
    if len(several) > 1:
        shown = ", ".join(f"{m} {'rank {}, alpha {:g}'.format(*settings.of(m))}" for m in rows)
        raise InputError(f"{path}: has {shown}, expected one for all of these, which are one matrix here")
    return several.pop()


def _packed(ours: str, rows: Rows, rank: int) -> dict[str, NDArray[Any]]:
    """lora_a and lora_b of a matrix; 0 for the parts that have no adapter."""
    first, _ = next(iter(rows.values()))
    height, width = first.shape
    lora_a, lora_b = np.zeros((height, first.of, rank)), np.zeros((rank, width))
    for module, pair in rows.values():
        lora_a[:, module.part] = numbers(pair["lora_a"]).T
        lora_b[:, module.piece.places()] = numbers(pair["lora_b"]).T
    return {f"{ours}.lora_a": lora_a.reshape(height, -1), f"{ours}.lora_b": lora_b}


def _patterns(names: list[str], config: Config) -> tuple[str, ...]:
    """Names of matrices, where all layers are adapted as a pattern of them."""
    patterns: dict[str, None] = {}
    everywhere = [*matrices(config)]
    for name in names:
        end = name.split(".", 2)[2]
        alike = {other for other in everywhere if other.endswith(f".{end}") and other.split(".", 2)[2] == end}
        patterns[f"h.*.{end}" if alike <= {*names} else name] = None
    return tuple(patterns)


def _head(score: Entry, model: Model) -> list[LoRA | Head]:
    """The head for a task that the file has besides, unless the model has it already."""
    own = next((a for a in model.additions if isinstance(a, Head)), None)
    width = score.array.shape[0] if score.array.ndim == 2 else 0
    labels = tuple(f"LABEL_{i}" for i in range(width))
    head = own or Head("classes" if width > 1 else "numbers", labels, "last", bias=False)
    _expect_theirs(f"{score.file}: score", head)
    expected = (head.width, model.config.n_embd)
    if score.array.shape != expected:
        raise InputError(f"{score.file}: {score.name} has shape {score.array.shape}, expected {expected}")
    return [] if own else [head]


def _expect_theirs(who: str, head: Head) -> None:
    """InputError for a head that no class of transformers has."""
    if head.bias or head.pool != "last":
        raise InputError(
            f"{who}: the model's head reads {head.pool} and has {'a' if head.bias else 'no'} bias, expected"
            " Head(…, pool='last', bias=False), as classes of transformers for sequences have it"
        )


# Writing.


def save(folder: StrPath, model: Model, *, dtype: str | None = None, kind: str | None = None) -> None:
    """Write the adapters of a model, and nothing else of it, so that from_pretrained of PEFT reads them.

    dtype: in which the numbers are stored; their own unless given. kind: the model_type of the model that
    they are for, where several classes of transformers compute it; the first unless given.

    A part of a matrix that is 0 in both halves has no adapter there.
    """
    folder = named(folder)
    adapters = [addition for addition in model.additions if isinstance(addition, LoRA)]
    if not adapters:
        raise InputError(
            "save: the model has no adapter, expected one for PEFT: model.extended(numgpt.LoRA())"
        )
    if len({lora.rslora for lora in adapters}) > 1:
        raise InputError("save: some adapters have rslora and some not, expected one for all of PEFT's")
    _, architecture = architectures.fitting(model.config, kind)
    dtype = checkpoint.stored_dtype(model, dtype)
    checkpoint.expect_loadable(model)
    params = model.params.to("reference")
    known = modules(architecture, model.config)
    arrays: dict[str, NDArray[Any]] = {}
    written: dict[str, Adapter] = {}
    for name, lora, lora_a, lora_b in _apart(adapters, known, model.config, params):
        written[name] = Adapter(lora.rank, lora.alpha)
        arrays[f"{PREFIX}{name}.lora_A.weight"] = lora_a
        arrays[f"{PREFIX}{name}.lora_B.weight"] = lora_b
    if not written:
        raise InputError("save: all adapters are 0 in both halves, expected one that can learn")
    head = next((a for a in model.additions if isinstance(a, Head)), None)
    if head is not None:
        _expect_theirs("save", head)
        arrays[f"{PREFIX}{SCORE}"] = params[SCORE].T
    stored = checkpoint.as_stored(arrays, dtype)
    config = peft_keys.write(
        written,
        [name for name in known if name not in written],
        architecture.model,
        rslora=adapters[0].rslora,
        transposed="in_out" in lines(architecture.table_of(model.config))["h.attn.c_attn"].words,
        has_head=head is not None,
    )

    def expect(place: Path) -> None:
        if not temporary.names(place) <= {CONFIG, MODEL}:
            raise InputError(
                f"{folder}: exists and is not just {CONFIG} and {MODEL}, expected a new folder or one to"
                " replace: choose another name"
            )

    def write(new: Path) -> None:
        write_json(new / CONFIG, config)
        checkpoint.write_tensors(new / MODEL, stored, CONFIG)

    replace_folder(folder, write, expect)


def _apart(
    adapters: list[LoRA], known: Mapping[str, Module], config: Config, params: Mapping[str, NDArray[Any]]
) -> Iterator[tuple[str, LoRA, NDArray[Any], NDArray[Any]]]:
    """(module, its LoRA, A (R, I), B (O, R)) of each linear map that has an adapter."""
    by_matrix = {ours: lora for lora in adapters for ours in lora.adapted(config)}
    for name, module in known.items():
        lora = by_matrix.get(module.ours)
        if lora is None:
            continue
        lora_a, lora_b = params[f"{module.ours}.lora_a"], params[f"{module.ours}.lora_b"]
        maps = lora_a.reshape(len(lora_a), -1, lora.rank)  # (I, G, R)
        if maps.shape[1] not in (1, module.of):
            raise InputError(
                f"save: {module.ours} has {maps.shape[1]} adapters by part, expected one, for {name} is one"
                " matrix there: adapt it without by_part"
            )
        own_a = maps[:, module.part if maps.shape[1] > 1 else 0].T
        own_b = lora_b[:, module.piece.places()].T
        if own_a.any() or own_b.any():
            yield name, lora, own_a, own_b
