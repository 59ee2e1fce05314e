"""Which settings a fused twin knows: what it was not written for, it declines."""

import dataclasses
import functools
from collections.abc import Collection, Mapping
from typing import Any

from ..architecture.config import Config

ANY = "any"  # beside a field's name: the twin computes every value of it


def beyond(config: Config, known: Mapping[str, Collection[object]]) -> str | None:
    """The name of the first field of config that a twin cannot compute, or None.

    known: field → the values that the twin computes, or ANY. A field that is not in known must be at its
    default: so a setting that joins Config later makes every twin decline until it is taught that setting.
    """
    kind: Any = type(config)
    for name, default in _defaults(kind):
        value, values = getattr(config, name), known.get(name)
        if values is None:
            if value != default:
                return name
        elif values != ANY and value not in values:
            return name
    return None


@functools.cache
def _defaults(kind: type[Config]) -> list[tuple[str, Any]]:
    """The fields of a dataclass and their defaults. Cached: this is asked at every block of every step."""
    return [(field.name, field.default) for field in dataclasses.fields(kind)]
