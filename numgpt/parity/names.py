"""Maps from numgpt's names to the parts of a PyTorch module: the known ones, and how any is filled in.

A map goes from numgpt's name of a part to the module's path: {"h.{i}.attn.c_attn":
"blocks.{i}.attention.qkv"}. A path that ends in ":input" is what goes into that module. The module's output
is the part's value, its weight and bias are the part's parameters; a parameter that stands alone has an entry
of its own, {"wpe.weight": "position_table"}. What numgpt packs side by side and the module computes in parts
has all of them: "blocks.{i}.{q,k,v}_proj".
"""

from __future__ import annotations

import re
from typing import Any

from ..errors import InputError
from ..interchange.parameter_names import each

INPUT = ":input"
# Of nanoGPT, minGPT and transformers alike.
GPT2 = {
    "wte": "transformer.wte",
    "wpe": "transformer.drop:input",
    "wpe.weight": "transformer.wpe.weight",
    "drop": "transformer.drop",
    "h.{i}": "transformer.h.{i}",
    "h.{i}.ln_1": "transformer.h.{i}.ln_1",
    "h.{i}.attn": "transformer.h.{i}.attn",
    "h.{i}.attn.c_attn": "transformer.h.{i}.attn.c_attn",
    "h.{i}.attn.heads": "transformer.h.{i}.attn.c_proj:input",
    "h.{i}.attn.c_proj": "transformer.h.{i}.attn.c_proj",
    "h.{i}.ln_2": "transformer.h.{i}.ln_2",
    "h.{i}.mlp.c_fc": "transformer.h.{i}.mlp.c_fc",
    "h.{i}.mlp.act": "transformer.h.{i}.mlp.c_proj:input",
    "h.{i}.mlp.c_proj": "transformer.h.{i}.mlp.c_proj",
    "h.{i}.mlp": "transformer.h.{i}.mlp.dropout",
    "ln_f": "transformer.ln_f",
    "lm_head": "lm_head",
}
# Of transformers' OpenAIGPT.
GPT1 = {name: path for name, path in GPT2.items() if name != "ln_f"} | {
    "wte": "transformer.tokens_embed",
    "wpe.weight": "transformer.positions_embed.weight",
    "h.{i}.mlp": "transformer.h.{i}.mlp",
}
# Of transformers' Llama and of its successors.
LLAMA = {
    "wte": "model.embed_tokens",
    "h.{i}": "model.layers.{i}",
    "h.{i}.ln_1": "model.layers.{i}.input_layernorm",
    "h.{i}.attn": "model.layers.{i}.self_attn",
    "h.{i}.attn.c_attn": "model.layers.{i}.self_attn.{q,k,v}_proj",
    "h.{i}.attn.heads": "model.layers.{i}.self_attn.o_proj:input",
    "h.{i}.attn.c_proj": "model.layers.{i}.self_attn.o_proj",
    "h.{i}.ln_2": "model.layers.{i}.post_attention_layernorm",
    "h.{i}.mlp.c_fc": "model.layers.{i}.mlp.{gate,up}_proj",
    "h.{i}.mlp.act": "model.layers.{i}.mlp.down_proj:input",
    "h.{i}.mlp.c_proj": "model.layers.{i}.mlp.down_proj",
    "h.{i}.mlp": "model.layers.{i}.mlp",
    "ln_f": "model.norm",
    "lm_head": "lm_head",
}
KNOWN = (GPT2, GPT1, LLAMA)
OPTIONAL = ("drop", "h.{i}.mlp")
# All names of numgpt's, but for those of parameters.
NAMES = (*GPT2, "h.{i}.attn.resid_dropout", "h.{i}.mlp.dropout", "loss")


class MapError(InputError):
    """A map of names that cannot be used."""

    def __init__(self, problem: str, who: str = "parity: the map of names") -> None:
        super().__init__(f"{who} {problem}")
        self.problem = problem


def expect_map(names: Any) -> None:
    """Raise MapError unless names is a map of strings."""
    is_map = isinstance(names, dict)
    if not is_map or not all(isinstance(n, str) and isinstance(p, str) for n, p in names.items()):
        raise MapError("does not go from strings to strings, expected numgpt's name → the module's path")


def filled_in(module: Any, names: Any) -> dict[str, str]:
    """A map with {i} filled in for each block that the module has, without optional parts that it lacks."""
    expect_map(names)
    paths = {}
    for name, path in names.items():
        _check_name(name, path)
        for full, full_path in _by_block(module, name, path):
            if has(module, full_path):
                paths[full] = full_path
            elif name not in OPTIONAL:
                who = f"{type(module).__name__} of PyTorch"
                raise InputError(f"{who}: has no {full_path} for {full}, {_hint(module, full_path)}")
    return paths


def _check_name(name: str, path: str) -> None:
    """Raise InputError unless numgpt has the name, and {i} stands on both sides or on none."""
    general = re.sub(r"^h\.\d+(?=\.|$)", "h.{i}", name)
    part, _, kind = general.rpartition(".")
    is_parameter = kind in ("weight", "bias") and part in NAMES
    if general not in NAMES and not is_parameter:
        raise MapError(
            f"has {name}, which numgpt does not have, expected some of {', '.join(NAMES)}, or of a parameter"
            " such as wpe.weight"
        )
    if ("{i}" in name) is not ("{i}" in path):
        raise MapError(
            f"has {name} → {path}, expected {{i}}, the number of the block, on both sides or on none"
        )


def _by_block(module: Any, name: str, path: str) -> list[tuple[str, str]]:
    """An entry of a map for each block; as it stands where it is of no block, or the module has no list."""
    if "{i}" in name:
        stem = path.split("{i}")[0].rstrip(".")
        blocks: Any = at(module, stem) if has(module, stem) else None
        if hasattr(blocks, "__len__"):
            numbers = map(str, range(len(blocks)))
            return [(name.replace("{i}", i), path.replace("{i}", i)) for i in numbers]
    return [(name, path)]


def _hint(module: Any, path: str) -> str:
    """What was expected where a path leads to nothing, and what the module has."""
    path = next(one for one in each(path) if not has(module, one))
    last = path.removesuffix(INPUT).rpartition(".")[2]
    near = [other for other, _ in module.named_modules() if other.rpartition(".")[2] == last]
    if near:
        return f"expected a path such as {near[0]}: give a map of names"
    parts = [part for part, _ in (*module.named_children(), *module.named_parameters(recurse=False))]
    if not parts:
        return "expected a module with parameters: it has no parts"
    return f"expected a path, for it has {', '.join(parts[:6])}: give a map of names"


def at(module: Any, path: str) -> Any:
    """What a path of names and indices leads to."""
    for part in path.removesuffix(INPUT).split(".") if path else ():
        is_index = re.fullmatch(r"\d+", part) and not hasattr(module, part)
        module = module[int(part)] if is_index else getattr(module, part)
    return module


def has(module: Any, path: str) -> bool:
    """Whether a path leads to something."""
    try:
        return all(at(module, one) is not None for one in each(path))
    except (AttributeError, IndexError, KeyError, TypeError):
        return False
