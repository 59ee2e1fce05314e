"""numgpt: a GPT in pure NumPy whose every gradient is written by hand and checked to machine precision."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import (
        calculus,
        data,
        evaluation,
        gradcheck,
        interpretability,
        learn,
        ops,
        pages,
        parity,
        plots,
        tokenizers,
        tuning,
    )
    from .architecture.additions import Head, LoRA
    from .architecture.config import Config, Training
    from .architecture.presets import preset, preset_training
    from .architecture.pruned import Pruned
    from .architecture.quantized import Quantized
    from .data.corpus import prepare
    from .engine import set_threads, use
    from .errors import InputError
    from .interchange import llmc, torch_random
    from .layers.layer import Layer
    from .layers.record import Record
    from .layers.visibility import Visibility
    from .model.gpt import GPT
    from .traces.trace import Trace
    from .training.muon import Muon
    from .training.optim import AdamW
    from .training.schedules import learning_rate
    from .training.trainer import Trainer

__all__ = [
    "GPT",
    "AdamW",
    "Config",
    "Head",
    "InputError",
    "Layer",
    "LoRA",
    "Muon",
    "Pruned",
    "Quantized",
    "Record",
    "Trace",
    "Trainer",
    "Training",
    "Visibility",
    "__version__",
    "calculus",
    "data",
    "evaluation",
    "gradcheck",
    "interpretability",
    "learn",
    "learning_rate",
    "llmc",
    "ops",
    "pages",
    "parity",
    "plots",
    "prepare",
    "preset",
    "preset_training",
    "set_threads",
    "tokenizers",
    "torch_random",
    "tuning",
    "use",
]

# Each name is imported when it is first asked for: name → (module, name in it, or None for the module).
# So `import numgpt` takes a few milliseconds, and the command line has a hand on Ctrl-C before NumPy comes.
_LATE = {
    "AdamW": ("training.optim", "AdamW"),
    "Config": ("architecture.config", "Config"),
    "GPT": ("model.gpt", "GPT"),
    "Head": ("architecture.additions", "Head"),
    "InputError": ("errors", "InputError"),
    "Layer": ("layers.layer", "Layer"),
    "LoRA": ("architecture.additions", "LoRA"),
    "Muon": ("training.muon", "Muon"),
    "Pruned": ("architecture.pruned", "Pruned"),
    "Quantized": ("architecture.quantized", "Quantized"),
    "Record": ("layers.record", "Record"),
    "Trace": ("traces.trace", "Trace"),
    "Trainer": ("training.trainer", "Trainer"),
    "Training": ("architecture.config", "Training"),
    "Visibility": ("layers.visibility", "Visibility"),
    "calculus": ("calculus", None),
    "data": ("data", None),
    "evaluation": ("evaluation", None),
    "gradcheck": ("gradcheck", None),
    "interpretability": ("interpretability", None),
    "learn": ("learn", None),
    "learning_rate": ("training.schedules", "learning_rate"),
    "llmc": ("interchange.llmc", None),
    "ops": ("ops", None),
    "pages": ("pages", None),
    "parity": ("parity", None),
    "plots": ("plots", None),
    "prepare": ("data.corpus", "prepare"),
    "preset": ("architecture.presets", "preset"),
    "preset_training": ("architecture.presets", "preset_training"),
    "set_threads": ("engine", "set_threads"),
    "tokenizers": ("tokenizers", None),
    "torch_random": ("interchange.torch_random", None),
    "tuning": ("tuning", None),
    "use": ("engine", "use"),
}


def __getattr__(name: str) -> Any:
    """A name of the face, or a room such as numgpt.engine, imported now."""
    place, inside = _LATE.get(name, (name, None))
    if name not in _LATE and (name.startswith("_") or importlib.util.find_spec(f"{__name__}.{name}") is None):
        from .errors import near

        names = near(name, __all__) or __all__
        raise AttributeError(
            f"module 'numgpt' has no attribute {name!r}, expected a name such as {', '.join(names)}"
        )
    module = importlib.import_module(f".{place}", __name__)
    if inside in ("GPT", "Trace"):
        importlib.import_module(".pages", __name__)  # whence a Trace has explore, and its display
    globals()[name] = module if inside is None else getattr(module, inside)
    return globals()[name]


def __dir__() -> list[str]:
    """The public face."""
    return list(__all__)
