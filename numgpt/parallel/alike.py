"""What ranks have to agree on before and while they work on one run, and who differs where they do not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import engine
from .._version import __version__
from ..architecture.parameters import Flat
from ..errors import InputError
from ..storage.files import parse_json
from .ranks import Ranks


def libraries() -> dict[str, str]:
    """The versions of what computes: another one rounds in other places."""
    found = {"numgpt": __version__, "NumPy": np.__version__, "engine": engine.current()}
    if found["engine"] == "numba":
        import numba

        from ..engine import blas

        found |= {"Numba": numba.__version__, "BLAS": blas.NAME}
    return found


def expect_alike(ranks: Ranks, facts: Mapping[str, Any]) -> None:
    """Raise InputError, on all ranks, where a fact of one differs from that of the first."""
    texts = ranks.gather_texts(json.dumps(dict(facts), sort_keys=True, default=str))
    if len(set(texts)) == 1:
        return
    all_facts = [parse_json(text.encode(), "a rank's facts") for text in texts]
    rank, other = next((r, facts) for r, facts in enumerate(all_facts) if facts != all_facts[0])
    name = next(name for name in sorted({*other, *all_facts[0]}) if other.get(name) != all_facts[0].get(name))
    first, second = _differing(all_facts[0].get(name), other.get(name))
    raise InputError(
        f"parallel: {name} of rank {rank} is {second}, and {first} of rank 0, expected the same on all ranks:"
        " start all of them with the same command, files and libraries"
    )


def _differing(a: Any, b: Any) -> tuple[str, str]:
    """Two facts as a message shows them; of two mappings the first entry that differs."""
    if isinstance(a, dict) and isinstance(b, dict):
        name = next(name for name in sorted({*a, *b}) if a.get(name) != b.get(name))
        return f"{name} {a.get(name)!s:.60}", f"{name} {b.get(name)!s:.60}"
    return f"{a!s:.60}", f"{b!s:.60}"


def digest(array: Any) -> str:
    """A short hash of an array's bits."""
    return hashlib.blake2b(np.ascontiguousarray(array).view(np.uint8).data, digest_size=16).hexdigest()


def expect_replicas(ranks: Ranks, params: Flat, step: int) -> None:
    """Raise InputError, on all ranks, where one holds other bits of a parameter than the first."""
    whole = ranks.gather_texts(digest(params.flat))
    if len(set(whole)) == 1:
        return
    by_name = [
        parse_json(text.encode(), "a rank's digests")
        for text in ranks.gather_texts(json.dumps({name: digest(params[name]) for name in params.shapes}))
    ]
    rank, name = next(
        (r, name) for r, own in enumerate(by_name) for name in params.shapes if own[name] != by_name[0][name]
    )
    raise InputError(
        f"parallel: after step {step} rank {rank} holds other bits of {name} than rank 0, expected the same:"
        " one of them computes otherwise (another library, faulty memory); go on from the last checkpoint by"
        " --resume"
    )
