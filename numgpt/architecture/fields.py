"""Fields of settings: what each takes, the sentence that says what it is, and how a file holds it."""

import dataclasses
import inspect
from collections.abc import Collection, Mapping
from dataclasses import field
from typing import Any, NoReturn, TypeVar, cast

from ..argument_kinds import held, kind_of
from ..errors import InputError

Settings = TypeVar("Settings")


def setting(
    default: Any,
    help: str,
    choices: Collection[str] | None = None,
    late: bool = False,
    by_layer: bool = False,
) -> Any:
    """A field with the sentence that --help and the docstring say about it, and the names it may be.

    late: files were written before there was this field, so a file does not name it where it has its default.
    by_layer: layers of one model may differ in it.
    """
    about = {"help": help, "choices": choices, "late": late, "by_layer": by_layer}
    return field(default=default, metadata=about)


def documented(cls: type[Settings]) -> type[Settings]:
    """Write a class's Parameters into its docstring, before the Examples, from its fields' sentences."""
    lines = ["Parameters", "----------"]
    spelled = [f.name for f in dataclasses.fields(cls) if isinstance(f.type, str)]  # type: ignore[arg-type]
    assert not spelled, (
        f"{cls.__name__}: types are texts, which nothing is held to: no annotations of __future__"
    )
    for f in dataclasses.fields(cls):  # type: ignore[arg-type]
        kind = f.type.__name__ if isinstance(f.type, type) else str(f.type)
        for room in ("collections.abc.", "typing."):
            kind = kind.replace(room, "")
        choices = f", one of {', '.join(f.metadata['choices'])}" if f.metadata["choices"] else ""
        lines += [f"{f.name} : {kind}, default {f.default!r}{choices}", f"    {f.metadata['help']}"]
    before, examples, after = inspect.cleandoc(cls.__doc__ or "").partition("Examples\n")
    cls.__doc__ = before + "\n".join(lines) + "\n\n" + examples + after
    return cls


class Frozen(dict[str, Any]):
    """A mapping that cannot be changed, and therefore has a hash: settings may hold it."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            "the mappings of a Config cannot be changed: dataclasses.replace gives another Config"
        )

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)


def frozen(value: Any) -> Any:
    """What JSON or a caller gives, so that it can be hashed: lists become tuples, mappings Frozen ones."""
    if isinstance(value, Mapping):
        return Frozen({name: frozen(part) for name, part in value.items()})
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


def check_fields(settings: Any) -> None:
    """Raise InputError for a field of another type than it says, not finite, or not among its choices.

    NumPy's numbers become Python's: an np.float64 among the settings would turn float32 arrays into float64.
    """
    for f in dataclasses.fields(settings):
        value = held("config", f.name, kind_of(cast(Any, f.type)), getattr(settings, f.name))
        object.__setattr__(settings, f.name, frozen(value))
        choices = f.metadata["choices"]
        if choices and value not in choices:
            raise InputError(f"config: {f.name} is {value!r}, expected one of {', '.join(choices)}")


def expect(settings: Any, name: str, holds: bool, what: str) -> None:
    """Raise InputError unless something holds of a field."""
    if not holds:
        raise InputError(f"config: {name} is {getattr(settings, name)}, expected {what}")


def to_dict(settings: Any) -> dict[str, Any]:
    """What a file holds of settings; from_dict reads it."""
    late = {f.name: f.default for f in dataclasses.fields(settings) if f.metadata["late"]}
    values = vars(settings).items()
    return {name: value for name, value in values if name not in late or value != late[name]}


def from_dict(cls: type[Settings], values: Mapping[str, Any]) -> Settings:
    """A dataclass from what a file holds; an unknown name is an error, not ignored."""
    known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = set(values) - known
    if unknown:
        raise InputError(
            f"config: unknown field {', '.join(sorted(unknown))}, expected {', '.join(sorted(known))}"
        )
    return cls(**values)
