"""A trace as one file of safetensors, with JSON in its metadata: written whole or not at all, read in doubt.

README.md has the schema.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..errors import InputError, did_you_mean
from ..layers.filed import Filed
from ..ops.cost import Cost
from ..storage import safetensors_file
from ..storage.atomic import StrPath, write_file
from ..storage.files import LONGEST_JSON, parse_json
from . import schema
from .steps import Difference, OpText, Reference, Step

Array = NDArray[Any]
Tensors = dict[str, Array]
# What a tensor's name begins with → how many names follow: of a parameter and a place, there are two.
GROUPS = {"value": 1, "gradient": 1, "ids": 1, "part": 2, "moment": 2, "reference": 2}
SIDES = {"value": "value", "gradient": "grad"}  # of a reference
DTYPES = {"float16", "float32", "float64"}
NUMBERS = "difference"  # (n, 3): h, difference and gradient of each


def write(path: StrPath, trace: Any) -> None:
    """Write a trace to a file."""
    from safetensors.numpy import save

    tensors = _tensors(trace)
    for name, array in tensors.items():
        if name.count("/") != GROUPS.get(name.split("/")[0], 0):
            raise InputError(f"save: there is a name with a slash in {name!r}, expected one without")
        if array.dtype.name not in DTYPES and not name.startswith("ids/"):
            raise InputError(
                f"save: {name} has dtype {array.dtype}, expected one that safetensors has, such as float64:"
                " trace a model.astype('float64')"
            )
    text = json.dumps(_content(trace), ensure_ascii=False, allow_nan=False)
    if 2 * len(text.encode()) > LONGEST_JSON:
        raise InputError(
            f"save: what belongs to the arrays has {len(text):,} characters, expected at most"
            f" {LONGEST_JSON // 2:,}: trace fewer names"
        )
    write_file(path, save(tensors, {"schema": schema.NAME, "trace": text}))


def _tensors(trace: Any) -> Tensors:
    """Every array by its name in the file."""
    found = {f"value/{n}": a for n, a in trace.value.items()}
    found |= {f"gradient/{n}": a for n, a in trace.grad.items()}
    found |= {f"ids/{n}": a for n, a in trace.ids.items()}
    found |= {f"part/{place}/{n}": a for n, parts in trace.parts.items() for place, a in parts.items()}
    found |= {f"moment/{kind}/{n}": a for kind, by in trace.moments.items() for n, a in by.items()}
    if trace.reference is not None:
        found |= {f"reference/value/{n}": a for n, a in trace.reference.value.items()}
        found |= {f"reference/gradient/{n}": a for n, a in trace.reference.grad.items()}
    if trace.differences:
        found[NUMBERS] = np.array([[d.h, d.difference, d.gradient] for d in trace.differences])
    return {name: np.ascontiguousarray(a).reshape(np.shape(a)) for name, a in found.items()}


def _content(trace: Any) -> dict[str, Any]:
    """What the arrays do not say, as the schema has it; what is empty is left out."""
    reference = trace.reference
    content = {
        "values": [*trace.value],
        "gradients": [*trace.grad],
        "parameters": [*trace.parameters],
        "edited": [*trace.edited],
        "ids": [*trace.ids],
        "steps": {name: _step(step) for name, step in trace.steps.items()},
        "ops": {name: text._asdict() for name, text in trace.ops.items()},
        "axes": {name: [*axes] for name, axes in trace.axes.items()},
        "sizes": dict(trace.sizes),
        "texts": {str(i): text for i, text in trace.texts.items()},
        "parts": {name: [*parts] for name, parts in trace.parts.items()},
        "differences": [{"name": d.name, "index": [*d.index]} for d in trace.differences],
        "moments": [*trace.moments],
        "config": trace.config,
        "source": trace.source,
    }
    content |= {} if reference is None else {"reference": reference.source}
    return {key: part for key, part in content.items() if part or key == "reference"}


def _step(step: Step) -> dict[str, Any]:
    content = {key: [*part] if isinstance(part, tuple) else part for key, part in step._asdict().items()}
    return {key: part for key, part in content.items() if part}


def read(path: StrPath) -> dict[str, Any]:
    """The fields of the trace in a file; InputError for whatever does not follow the schema."""
    tensors, metadata = safetensors_file.read(path)
    if metadata.get("schema") != schema.NAME:
        found = repr(metadata["schema"]) if "schema" in metadata else "missing"
        raise InputError(
            f"{path}: its schema is {found}, expected {schema.NAME!r} in the metadata of a trace's file"
        )
    content = parse_json(metadata.get("trace", "{}").encode(), path)
    fault = schema.fault(content)
    if fault is not None:
        raise _misfit(path, fault)
    engine.expect_room(f"{path}: its arrays", sum(a.nbytes for _, a in tensors.values()))
    grouped = _grouped(path, {name: _array(path, name, *entry) for name, entry in tensors.items()})
    return _fields(path, content, grouped)


def _array(path: StrPath, name: str, dtype: str, stored: Array) -> Array:
    """An array of the file in memory; bfloat16, which NumPy lacks, as float32."""
    if name.startswith("ids/"):
        if dtype[0] not in "IU":
            raise _misfit(path, f"{name} has dtype {dtype}, not integers")
        return stored.astype(np.int64)
    if dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    if stored.dtype.kind != "f":
        raise _misfit(path, f"{name} has dtype {dtype}, not floats")
    return stored.astype(stored.dtype.newbyteorder("="))


def _grouped(path: StrPath, arrays: Tensors) -> dict[str, dict[Any, Array]]:
    """Group → name, or pair of names → array."""
    grouped: dict[str, dict[Any, Array]] = {group: {} for group in (*GROUPS, NUMBERS)}
    for full, array in arrays.items():
        group, *names = full.split("/", GROUPS.get(full.split("/")[0], 0))
        if full == NUMBERS:
            grouped[NUMBERS][full] = array
        elif group not in GROUPS or len(names) != GROUPS[group] or not all(names):
            meant = did_you_mean(group, GROUPS)
            raise _misfit(path, f"it has an array {full!r}{meant}, not of {', '.join(GROUPS)}, and a name")
        else:
            grouped[group][tuple(names) if len(names) > 1 else names[0]] = array
    return grouped


def _fields(path: StrPath, content: dict[str, Any], grouped: dict[str, dict[Any, Array]]) -> dict[str, Any]:
    """What Trace takes, of a content that is of its kind and of arrays in their groups."""
    parts: dict[str, dict[str, Array]] = {}
    for (place, name), array in grouped["part"].items():
        parts.setdefault(name, {})[place] = array
    moments: dict[str, dict[str, Array]] = {}
    for (kind, name), array in grouped["moment"].items():
        moments.setdefault(kind, {})[name] = array
    value = _in_order(path, "values", content, grouped["value"])
    grad = _in_order(path, "gradients", content, grouped["gradient"])
    steps = {name: _read_step(path, name, step) for name, step in content.get("steps", {}).items()}
    return {
        "value": Filed("value", value),
        "grad": Filed("gradient", grad),
        "ids": _in_order(path, "ids", content, grouped["ids"]),
        "steps": Filed("step", steps),
        "ops": {name: OpText(**text) for name, text in content.get("ops", {}).items()},
        "axes": {name: tuple(axes) for name, axes in content.get("axes", {}).items()},
        "sizes": content.get("sizes", {}),
        "parameters": tuple(content.get("parameters", ())),
        "edited": tuple(content.get("edited", ())),
        "texts": {_id(path, key): text for key, text in content.get("texts", {}).items()},
        "parts": {n: _in_order(path, n, content.get("parts", {}), p) for n, p in parts.items()},
        "moments": _in_order(path, "moments", content, moments),
        "differences": _differences(path, content.get("differences", []), grouped[NUMBERS].get(NUMBERS)),
        "reference": _reference(path, content.get("reference"), grouped["reference"]),
        "config": content.get("config", {}),
        "source": content.get("source", ""),
    }


def _in_order(path: StrPath, key: str, content: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Any]:
    """Arrays in the order that a list gives; without a list, in the file's."""
    names = content.get(key, [*arrays])
    if len(names) != len(arrays) or {*names} != {*arrays}:
        wrong = ", ".join(sorted({*names} ^ {*arrays})[:4]) or "a name twice"
        raise _misfit(path, f"its {key} are not those of the arrays: {wrong}")
    return {name: arrays[name] for name in names}


def _read_step(path: StrPath, name: str, content: dict[str, Any]) -> Step:
    step = dict(content)
    cost = step.pop("cost", None)
    if cost is not None and len(cost) != len(Cost._fields):
        raise _misfit(path, f"trace.steps.{name}.cost has {len(cost)} numbers, not {', '.join(Cost._fields)}")
    options = step.pop("options", {})
    names = {key: tuple(part) for key, part in step.items() if key != "op"}
    return Step(step.get("op", ""), **names, options=options, cost=None if cost is None else Cost(*cost))


def _id(path: StrPath, key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) < 20):
        raise _misfit(path, f"trace.texts has {key!r}, not an id")
    return int(key)


def _differences(path: StrPath, entries: list[Any], numbers: Array | None) -> tuple[Difference, ...]:
    if numbers is None:
        numbers = np.zeros((0, 3))
    if numbers.shape != (len(entries), 3) or any(len(entry) != 2 for entry in entries):
        raise _misfit(
            path,
            f"{NUMBERS} has shape {numbers.shape}, not (h, difference, gradient) of {len(entries)} entries",
        )
    rows = (map(float, row) for row in numbers)
    return tuple(Difference(e["name"], tuple(e["index"]), *row) for e, row in zip(entries, rows))


def _reference(path: StrPath, source: str | None, arrays: dict[Any, Array]) -> Reference | None:
    if source is None and not arrays:
        return None
    sides: dict[str, Tensors] = {"value": {}, "grad": {}}
    for (side, name), array in arrays.items():
        if side not in SIDES:
            raise _misfit(path, f"it has an array reference/{side}/{name}, not of {' or '.join(SIDES)}")
        sides[SIDES[side]][name] = array
    return Reference(source or "", sides["value"], sides["grad"])


def _misfit(path: StrPath, fault: str) -> InputError:
    return InputError(
        f"{path}: does not follow the schema of a trace ({fault}), expected {schema.NAME}, as in"
        " numgpt/traces/README.md"
    )
