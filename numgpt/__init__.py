"""numgpt: a GPT in pure NumPy whose every gradient is written by hand and proved to machine precision."""

from . import calculus, gradcheck, ops
from ._version import __version__
from .config import Config, Training
from .engine import set_threads, use
from .errors import InputError
from .model import GPT
from .optim import AdamW, learning_rate
from .presets import preset, preset_training
from .record import Layer, Record

__all__ = [
    "AdamW",
    "Config",
    "GPT",
    "InputError",
    "Layer",
    "Record",
    "Training",
    "__version__",
    "calculus",
    "gradcheck",
    "learning_rate",
    "ops",
    "preset",
    "preset_training",
    "set_threads",
    "use",
]
