"""numgpt: a GPT in pure NumPy whose every gradient is written by hand and checked to machine precision."""

import importlib

from . import calculus, gradcheck, ops
from ._version import __version__
from .architecture.config import Config, Training
from .architecture.presets import preset, preset_training
from .engine import set_threads, use
from .errors import InputError
from .layers.record import Layer, Record
from .model.gpt import GPT
from .training.optim import AdamW, learning_rate

# What is imported when it is first asked for: name → (module, name in it, or None for the module itself).
_LATE = {
    "Trainer": ("training.trainer", "Trainer"),
    "llmc": ("interchange.llmc", None),
    "parity": ("parity", None),
    "prepare": ("data.corpus", "prepare"),
    "tokenizers": ("tokenizers", None),
    "torch_random": ("interchange.torch_random", None),
}

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


def __getattr__(name):
    """What is imported late."""
    if name not in _LATE:
        raise AttributeError(
            f"module 'numgpt' has no attribute {name!r}, expected one of {', '.join(__all__)}"
        )
    module, inside = _LATE[name]
    found = importlib.import_module(f".{module}", __name__)
    globals()[name] = found if inside is None else getattr(found, inside)
    return globals()[name]


def __dir__():
    """The public face."""
    return list(__all__)
