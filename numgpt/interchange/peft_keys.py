"""adapter_config.json of PEFT, read and written: what of it numgpt computes, and what it refuses by name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..architecture.additions import LARGEST_RANK
from ..storage.atomic import StrPath
from .config_keys import Keys, is_count

# What a key means that a file leaves out, of those that are read.
DEFAULTS: Mapping[str, Any] = {
    "peft_type": None,
    "auto_mapping": None,
    "r": 8,
    "lora_alpha": 8,
    "use_rslora": False,
    "bias": "none",
    "target_modules": None,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "init_lora_weights": True,
}
# What says nothing of the function that the adapter computes: where it comes from, how it was trained, and
# which modules were chosen, which the names of the arrays say.
WITHOUT_EFFECT = (
    *("peft_version", "base_model_name_or_path", "revision", "inference_mode", "task_type"),
    *("lora_dropout", "fan_in_fan_out", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size"),
    *("runtime_config", "ensure_weight_tying"),
)
# First values that leave the model's own weights as they are. The others (PiSSA, OLoRA, CorDA, LoftQ) change
# them, so that an adapter is one of another model.
FIRST_VALUES = (True, False, None, "gaussian", "orthogonal", "eva")
HEADS = ("score", "classifier")  # PEFT names both for any class of transformers with a head
PATTERN = re.compile(r"\^?[\w.]{1,1000}", re.ASCII)


class Settings(NamedTuple):
    """What a file says of the adapter of each module.

    rank, alpha: of modules that no pattern names. ranks, alphas: a pattern of names → theirs.
    targets: the ends of the names of modules, where the file lists them. of_class: the class of transformers
    that the adapter was made for, where the file says it.
    """

    rank: int
    alpha: float
    rslora: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    targets: tuple[str, ...] | None
    has_head: bool
    of_class: str | None

    def of(self, module: str) -> tuple[int, float]:
        """The rank and the alpha of a module."""
        return _chosen(self.ranks, module, self.rank), _chosen(self.alphas, module, self.alpha)

    def names(self, module: str) -> bool:
        """Whether a module is among the targets. A file's expression is not run, for it may not end."""
        return self.targets is None or any(_ends(module, target) for target in self.targets)


def _chosen(patterns: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    """What the first pattern says that a module's name fits, as PEFT chooses."""
    fitting = (value for pattern, value in patterns.items() if _fits(module, pattern))
    return next(fitting, otherwise)


def _fits(module: str, pattern: str) -> bool:
    return module == pattern[1:] if pattern.startswith("^") else _ends(module, pattern)


def _ends(module: str, end: str) -> bool:
    return module == end or module.endswith(f".{end}")


def read(stored: Any, path: StrPath) -> Settings:
    """The Settings of the content of a file; InputError for what numgpt does not compute, by its key."""
    keys = Keys(stored if isinstance(stored, dict) else {}, DEFAULTS, path)
    if keys["peft_type"] != "LORA":
        keys.refuse("peft_type", "LORA, in the adapter_config.json of an adapter")
    if keys["bias"] != "none":
        keys.refuse("bias", "none: biases are the model's own here")
    first = keys["init_lora_weights"]
    if not isinstance(first, bool | str | None) or first not in FIRST_VALUES:
        keys.refuse(
            "init_lora_weights", "true: others change the model's weights; PEFT converts such an adapter"
        )
    for key, value in keys.stored.items():
        if key not in DEFAULTS and key not in WITHOUT_EFFECT and value:
            keys.refuse(key, "none or false: numgpt does not compute it")
    return Settings(
        _rank(keys, "r", keys["r"]),
        _alpha(keys, "lora_alpha", keys["lora_alpha"]),
        keys.flag("use_rslora"),
        {pattern: _rank(keys, "rank_pattern", r) for pattern, r in _patterns(keys, "rank_pattern")},
        {pattern: _alpha(keys, "alpha_pattern", a) for pattern, a in _patterns(keys, "alpha_pattern")},
        _targets(keys),
        _has_head(keys),
        _class(keys),
    )


def _rank(keys: Keys, key: str, value: Any) -> int:
    if not is_count(value) or not 1 <= value <= LARGEST_RANK:
        keys.refuse(key, f"a rank of 1 to {LARGEST_RANK:,}", value)
    return int(value)


def _alpha(keys: Keys, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        keys.refuse(key, "a number", value)
    return float(value)


def _patterns(keys: Keys, key: str) -> list[tuple[str, Any]]:
    """The patterns of names; InputError for one that is a regular expression beyond a name or its end."""
    patterns = {} if keys[key] is None else keys[key]
    if not isinstance(patterns, dict):
        keys.refuse(key, "names and their numbers")
    unlike = next((name for name in patterns if not PATTERN.fullmatch(name)), None)
    if unlike is not None:
        keys.refuse(key, "names of modules or their ends: regular expressions are not run here", unlike)
    return list(patterns.items())


def _targets(keys: Keys) -> tuple[str, ...] | None:
    targets = keys["target_modules"]
    if targets is None or isinstance(targets, str):
        return None
    if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
        keys.refuse("target_modules", "a list of names, or an expression")
    return tuple(targets)


def _has_head(keys: Keys) -> bool:
    saved = keys["modules_to_save"] or []
    if not isinstance(saved, list) or any(name not in HEADS for name in saved):
        keys.refuse("modules_to_save", "none, or score: other modules are the model's own here")
    return "score" in saved


def _class(keys: Keys) -> str | None:
    mapping = keys["auto_mapping"]
    name = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    return name if isinstance(name, str) else None


class Adapter(NamedTuple):
    """What a module has: the rank and the alpha of its adapter."""

    rank: int
    alpha: float


def write(
    adapters: Mapping[str, Adapter],
    others: Sequence[str],
    of_class: str,
    *,
    rslora: bool,
    transposed: bool,
    has_head: bool,
) -> dict[str, Any]:
    """The content of a file.

    adapters: by the names of modules. others: names of modules without one. of_class: of transformers, of
    which there are some that have the same names and other orders of columns. transposed: whether the
    modules hold their weights as (in, out).
    """
    first = next(iter(adapters.values()))
    ends = dict.fromkeys(module.rpartition(".")[2] for module in adapters)
    is_more = any(_ends(module, end) for module in others for end in ends)
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if has_head else "CAUSAL_LM",
        "auto_mapping": {"base_model_class": of_class, "parent_library": "transformers"},
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": first.rank,
        "lora_alpha": _number(first.alpha),
        "use_rslora": rslora,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "init_lora_weights": True,
        "target_modules": list(adapters if is_more else ends),
        "modules_to_save": ["score"] if has_head else None,
        "rank_pattern": {name: a.rank for name, a in adapters.items() if a.rank != first.rank},
        "alpha_pattern": {name: _number(a.alpha) for name, a in adapters.items() if a.alpha != first.alpha},
    }


def _number(alpha: float) -> int | float:
    """Integers as such: PEFT's lora_alpha is one, though it takes others."""
    return int(alpha) if math.isfinite(alpha) and alpha == int(alpha) else alpha
