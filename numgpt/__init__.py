"""numgpt: a GPT in pure NumPy whose every gradient is written by hand and checked to machine precision."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import ops
from ._version import __version__
from .architecture.config import Config, Training
from .architecture.presets import preset, preset_training
from .engine import set_threads, use
from .errors import InputError, near
from .layers.layer import Layer
from .layers.record import Record
from .model.gpt import GPT
from .training.optim import AdamW, learning_rate

if TYPE_CHECKING:
    from . import calculus, gradcheck, parity, tokenizers
    from .data.corpus import prepare
    from .interchange import llmc, torch_random
    from .training.trainer import Trainer

__all__ = [
    "GPT",
    "AdamW",
    "Config",
    "InputError",
    "Layer",
    "Record",
    "Trainer",
    "Training",
    "__version__",
    "calculus",
    "gradcheck",
    "learning_rate",
    "llmc",
    "ops",
    "parity",
    "prepare",
    "preset",
    "preset_training",
    "set_threads",
    "tokenizers",
    "torch_random",
    "use",
]

# What is imported when it is first asked for, so that `import numgpt` takes little more than NumPy's import:
# name → (module, name in it, or None for the module itself).
_LATE = {
    "Trainer": ("training.trainer", "Trainer"),
    "calculus": ("calculus", None),
    "gradcheck": ("gradcheck", None),
    "llmc": ("interchange.llmc", None),
    "parity": ("parity", None),
    "prepare": ("data.corpus", "prepare"),
    "tokenizers": ("tokenizers", None),
    "torch_random": ("interchange.torch_random", None),
}


def __getattr__(name: str) -> Any:
    """What is imported late."""
    if name not in _LATE:
        names = near(name, __all__) or __all__
        raise AttributeError(
            f"module 'numgpt' has no attribute {name!r}, expected a name such as {', '.join(names)}"
        )
    place, inside = _LATE[name]
    module = importlib.import_module(f".{place}", __name__)
    globals()[name] = module if inside is None else getattr(module, inside)
    return globals()[name]


def __dir__() -> list[str]:
    """The public face."""
    return list(__all__)
