"""The settings of two models, of their optimizers and of their runs, and in which of them they differ."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..architecture.config import Config, Training
from ..architecture.fields import from_dict
from ..argument_kinds import PATH, held
from ..arguments import checked
from ..errors import InputError
from ..interchange import checkpoint, huggingface
from ..interchange.architectures import ARCHITECTURES
from ..interchange.gpt2_keys import DROPOUTS
from ..model.gpt import GPT
from ..storage.files import read_bytes, read_json
from ..storage.shipped import located
from ..tokenizers import Tokenizer
from ..tokenizers import load as load_tokenizer
from ..training.optim import AdamW
from .modules import is_module
from .sides import Ours, State, Theirs, is_state, opened, title_of_file

Named = dict[str, Any]
SHOWN = 8  # names of a list, before it is shortened
# Of an optimizer of PyTorch: how it computes, not what.
OF_SPEED = ("params", "foreach", "capturable", "differentiable", "fused", "initial_lr", "param_names")
# What transformers' configurations call by other names, or call after one run of a program.
RENAMED = {key for row in ARCHITECTURES.values() for key in (*row.sizes.values(), *row.others)}
OF_A_FILE = ("architectures", "transformers_version", "torch_dtype", "dtype", "numgpt")


@dataclass(frozen=True)
class Setting:
    """A setting in which two sides differ: its name, and what it is in A and in B."""

    name: str
    a: Any
    b: Any

    def __str__(self) -> str:
        return f"{self.name} is {shown(self.a)} in A, {shown(self.b)} in B"


@dataclass(frozen=True)
class Settings:
    """What compare_settings returns; prints as a table.

    Attributes
    ----------
    a, b : str
        What both sides are.
    differing : tuple of Setting
        The settings that both sides have, in which they differ.
    only_a, only_b : mapping
        The settings that one side alone has, name → value.
    equal : int
        How many are the same on both sides.
    """

    a: str
    b: str
    differing: tuple[Setting, ...]
    only_a: Mapping[str, Any]
    only_b: Mapping[str, Any]
    equal: int

    def lines(self, alone: bool = True) -> Iterator[str]:
        """The differing settings as a table; alone: with what one side alone has."""
        if self.differing:
            rows = [("settings that differ", "A", "B")]
            rows += [(f"  {s.name}", shown(s.a), shown(s.b)) for s in self.differing]
            widths = [max(map(len, column)) for column in zip(*rows)]
            yield from ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        for side, only in (("A", self.only_a), ("B", self.only_b)):
            if only and alone:
                yield f"settings of {side} alone: {_listed(only)}"

    def __str__(self) -> str:
        head = [f"A  {self.a}", f"B  {self.b}", ""]
        if not self.differing:
            head.append(f"no setting differs of the {self.equal} that both have")
        return "\n".join([*head, *self.lines()])


@checked
def compare_settings(
    a: Any,
    b: Any,
    *,
    names: Mapping[str, str] | None = None,
    optimizers: tuple[Any, Any] = (None, None),
    lr: float | None = None,
) -> Settings:
    """Every setting in which two models differ; nothing is computed, and folders need not hold weights.

    Parameters
    ----------
    a, b : GPT, Config, Training, AdamW, torch.nn.Module, mapping, str or path
        The path of a checkpoint or a run, of a folder of transformers, of a JSON file or of a file of llm.c
        or llama2.c; or FILE.py:NAME. Of a run its training, its data and its tokenizer are compared too, of a
        folder of transformers of any kind the fields of its config.json.
    names : mapping, optional
        As in compare, for a module that does not name its parts as nanoGPT, minGPT or transformers do.
    optimizers : pair, default (None, None)
        An optimizer of each side, of numgpt or of torch.optim.
    lr : float, optional
        Of numgpt's AdamW.

    Returns
    -------
    Settings
        Print it.

    Raises
    ------
    InputError
        One of the two has no settings that can be read.

    Examples
    --------
    >>> import numgpt
    >>> settings = {"vocab_size": 5, "block_size": 4, "n_layer": 1, "n_head": 2, "n_embd": 4}
    >>> a, b = numgpt.Config(**settings), numgpt.Config(**settings, activation="gelu")
    >>> print(*numgpt.parity.compare_settings(a, b).differing)
    activation is gelu_tanh in A, gelu in B
    """
    settings = [_read(thing, names) for thing in (a, b)]
    return differing(*((title, own | of_optimizer(o, lr)) for (title, own), o in zip(settings, optimizers)))


def side_settings(side: Ours | Theirs | State, thing: Any) -> tuple[str, Named]:
    """(the title of a side of a comparison, its settings); thing: what it was opened from."""
    if isinstance(side, Theirs):
        return side.title, _of_module(side)
    if isinstance(side, State):
        return side.title, {}
    if isinstance(thing, GPT):
        return side.title, of_model(thing)
    if Path(thing).is_file():  # of llm.c or llama2.c, whose header says no more
        return side.title, _of_fields(side.config)
    return side.title, _of_path(thing, None)[1]


def differing(a: tuple[str, Named], b: tuple[str, Named]) -> Settings:
    """The Settings of two sides, each (its title, its settings)."""
    (title_a, ours), (title_b, theirs) = a, b
    both = [name for name in ours if name in theirs]
    unequal = tuple(Setting(n, ours[n], theirs[n]) for n in both if not _same(ours[n], theirs[n]))
    return Settings(
        title_a,
        title_b,
        unequal,
        {n: v for n, v in ours.items() if n not in theirs},
        {n: v for n, v in theirs.items() if n not in ours},
        len(both) - len(unequal),
    )


def _same(a: Any, b: Any) -> bool:
    """Whether two settings are one: 1e-5 and 0.00001, a tuple and a list of the same."""
    return bool(_plain(a) == _plain(b))


def _plain(value: Any) -> Any:
    """A setting without what says nothing: a list for a tuple."""
    return [_plain(part) for part in value] if isinstance(value, tuple | list) else value


def shown(value: Any) -> str:
    """A setting in a cell of a table."""
    if isinstance(value, tuple | list):
        return f"({', '.join(map(shown, value))})"
    if isinstance(value, float):
        return f"{value:.12g}"
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}…"


def _listed(only: Mapping[str, Any]) -> str:
    """Names and values of one side alone, shortened where there are many."""
    parts = [f"{name} {shown(value)}" for name, value in only.items()]
    more = f" and {len(parts) - SHOWN} more" if len(parts) > SHOWN else ""
    return ", ".join(parts[:SHOWN]) + more


def _read(thing: Any, names: Any) -> tuple[str, Named]:
    """(what something is, its settings)."""
    if isinstance(thing, GPT):
        return "numgpt", of_model(thing)
    if isinstance(thing, Config | Training):
        return f"a {type(thing).__name__}", _of_fields(thing)
    if isinstance(thing, AdamW) or hasattr(thing, "param_groups"):
        return f"a {type(thing).__name__}", of_optimizer(thing, None)
    if is_module(thing):
        return side_settings(Theirs(thing, names), thing)
    if isinstance(thing, Mapping):
        return "a mapping", _flattened(thing)
    if isinstance(thing, str | os.PathLike):
        return _of_path(thing, names)
    raise InputError(
        f"settings: {type(thing).__name__} has none that can be read, expected a GPT, a Config, a Training,"
        " an optimizer, a PyTorch module, a mapping, or a path"
    )


def of_model(model: GPT) -> Named:
    """The settings of a model of numgpt."""
    settings = _of_fields(model.config) | {"dtype": model.params.dtype.name, "seed": model.seed}
    return settings | _of_tokenizer(model.tokenizer)


def _of_fields(settings: Any, prefix: str = "") -> Named:
    """The fields of a Config or a Training, with what a default of None stands for."""
    named = dict(vars(settings))
    if isinstance(settings, Config):
        named["n_inner"] = settings.ffn_width
        for name, default in (
            ("n_kv_head", settings.n_head),
            ("head_dim", settings.n_embd / settings.n_head),
            ("rotary_dim", settings.head_size),
        ):
            if named[name] == default:  # what None stands for there
                named[name] = None
    if isinstance(settings, Training):
        named["min_lr"] = settings.final_lr
        prefix = prefix or "training."
    return {f"{prefix}{name}": value for name, value in named.items()}


def _of_tokenizer(tokenizer: Tokenizer | None) -> Named:
    if tokenizer is None:
        return {}
    tokens = f"{tokenizer.vocab_size:,} tokens"
    return {"tokenizer": f"{tokenizer.kind}, {tokens}, digest {tokenizer.digest[:8]}"}


def of_optimizer(optimizer: Any, lr: float | None) -> Named:
    """The settings of an optimizer, of numgpt or of torch.optim; {} where there is none."""
    if optimizer is None:
        return {}
    if isinstance(optimizer, AdamW):
        named: Named = {"": "AdamW", "betas": optimizer.betas, "eps": optimizer.eps}
        named |= {"weight_decay": optimizer.weight_decay, "decays": "matrices", "clip": optimizer.clip or 0.0}
        named |= {"amsgrad": False, "maximize": False, "decoupled_weight_decay": True}
        named |= {} if lr is None else {"lr": lr}
        named |= {} if optimizer.names is None else {"moves": ", ".join(optimizer.names)}
    elif hasattr(optimizer, "param_groups"):
        named = {"": type(optimizer).__name__, "clip": 0.0} | _of_groups(optimizer.param_groups)
    else:
        raise InputError(
            f"settings: the optimizer is {type(optimizer).__name__}, expected one of numgpt or of torch.optim"
        )
    return {f"optimizer.{name}".rstrip("."): value for name, value in named.items()}


def _of_groups(groups: Sequence[Mapping[str, Any]]) -> Named:
    """The settings of an optimizer of PyTorch; where its groups differ, those of all, in their order."""
    named: Named = {}
    for name in dict.fromkeys(name for group in groups for name in group if name not in OF_SPEED):
        values = [_number(group.get(name)) for group in groups if group["params"]]
        if name == "weight_decay":
            values = [v for v in values if v] or [0.0]  # which tensors it acts on is the next setting
            named["decays"] = _decayed(groups)
        distinct = [v for i, v in enumerate(values) if not any(_same(v, other) for other in values[:i])]
        named[name] = distinct[0] if len(distinct) == 1 else tuple(distinct)
    return named


def _decayed(groups: Sequence[Mapping[str, Any]]) -> str:
    """On which tensors weight decay acts."""
    is_decayed = [(p.ndim > 1, _number(g["weight_decay"]) != 0) for g in groups for p in g["params"]]
    if not any(decays for _, decays in is_decayed):
        return "none"
    if all(decays for _, decays in is_decayed):
        return "all tensors"
    if all(is_matrix is decays for is_matrix, decays in is_decayed):
        return "matrices"
    count = sum(decays for _, decays in is_decayed)
    return f"{count} of {len(is_decayed)} tensors"


def _number(value: Any) -> Any:
    """A tensor of one number as that number."""
    return value.item() if hasattr(value, "item") else value


def _of_module(side: Theirs) -> Named:
    """What a PyTorch module says of itself: its Config, and what else its own config holds."""
    settings = _of_fields(side.config)
    own = getattr(side.module, "config", None)
    rates = {m.p for m in side.module.modules() if type(m).__name__ == "Dropout"}
    del settings["dropout"]
    if rates:
        settings["dropout"] = rates.pop() if len(rates) == 1 else tuple(sorted(rates))
    kinds = {str(p.dtype).removeprefix("torch.") for p in side.module.parameters()}
    settings["dtype"] = kinds.pop() if len(kinds) == 1 else tuple(sorted(kinds))
    raw: Any = getattr(own, "to_dict", lambda: own)()
    if not isinstance(raw, Mapping):
        raw = getattr(raw, "__dict__", {})
    return settings | _raw(raw, settings)


def _raw(fields: Mapping[Any, Any], known: Named) -> Named:
    """The plain fields of a configuration that none of the known settings says."""
    left_out = {*known, *RENAMED, *OF_A_FILE, *vars(Config())}
    flat = _flattened(fields)
    rates = [flat.get(name) for name in DROPOUTS]
    if len(set(map(str, rates))) == 1:  # numgpt's one
        left_out |= {*DROPOUTS}
    return {n: v for n, v in flat.items() if n.split(".")[0] not in left_out and not n.startswith("_")}


def _flattened(fields: Mapping[Any, Any], prefix: str = "") -> Named:
    """The numbers, texts, truths and lists of nested mappings, by dotted names."""
    named: Named = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            named |= _flattened(value, f"{prefix}{name}.")
        elif value is None or isinstance(value, str | int | float | tuple | list):
            named[f"{prefix}{name}"] = value
    return named


def _of_path(path: str | os.PathLike[str], names: Any) -> tuple[str, Named]:
    """(what a path leads to, its settings); weights are not read."""
    from .. import user_code

    held("compare_settings", "path", PATH, path)
    if user_code.is_named(path):
        return side_settings(opened(path, names=names), path)
    place = Path(huggingface.find(path) or located(path))
    if place.is_dir() or not place.exists():
        return _of_folder(place, str(path))
    if place.exists() and place.suffix.lower() == ".json":
        return f"{path}, a JSON file", _of_json(place)
    if is_state(place):
        raise InputError(
            f"{path}: is a debug state, which holds no settings, expected the model that it is of"
        )
    return title_of_file(path), _of_fields(GPT.load(place).config)


def _of_folder(folder: Path, title: str) -> tuple[str, Named]:
    """(what a folder is, its settings): a checkpoint, a run, or a model of transformers of any kind."""
    config = folder / huggingface.CONFIG
    if config.is_file() and "model_type" in _mapping(config):
        files = [folder / name for name in huggingface.TOKENIZER if (folder / name).is_file()]
        hashes = {f"file {f.name}": f"sha256 {hashlib.sha256(read_bytes(f)).hexdigest()[:8]}" for f in files}
        return f"{title}, a model of transformers", _of_json(config) | hashes
    place = checkpoint.find(folder)
    stored = _mapping(place / checkpoint.CONFIG)
    settings = _of_json(place / checkpoint.CONFIG)
    settings |= {name: stored[name] for name in ("dtype", "seed", "numgpt") if name in stored}
    if (place / checkpoint.TOKENIZER).exists():
        settings |= _of_tokenizer(load_tokenizer(place / checkpoint.TOKENIZER))
    for run in (place, folder / "last"):
        if (run / checkpoint.STATE).exists():
            return f"{title}, a run of numgpt", settings | _of_run(checkpoint.read_state(run))
    return f"{title}, a checkpoint of numgpt", settings


def _of_run(state: Mapping[str, Any]) -> Named:
    """The settings of a run from its state."""
    training = _flattened(state["training"], "training.")
    with contextlib.suppress(InputError):  # as in _of_json
        training = _of_fields(from_dict(Training, state["training"]))
    recipe = {f"data.{name}": value for name, value in _flattened(state["recipe"]).items()}
    return training | {"data.source": state["source"], "data.digest": state["digest"][:8]} | recipe


def _mapping(path: Path) -> Mapping[str, Any]:
    """The content of a JSON file that holds a mapping."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds {type(content).__name__}, expected names and settings")
    return content


def _of_json(path: Path) -> Named:
    """The settings in a JSON file: numgpt's or transformers' as a Config, with what else it holds."""
    stored = _mapping(path)
    if huggingface.is_model(stored):
        try:
            settings = _of_fields(huggingface.config_from(stored, path))
        except InputError:  # a GPT-2 that numgpt does not compute has settings all the same
            return _flattened(stored)
        if len({float(stored.get(name, 0.1)) for name in DROPOUTS}) > 1:
            del settings["dropout"]
        return settings | _raw(stored, settings)
    if isinstance(stored.get("config"), dict) and "numgpt" in stored:
        with contextlib.suppress(InputError):  # a later numgpt's has fields that this one does not know
            return _of_fields(from_dict(Config, stored["config"]))
        return _flattened(stored["config"])
    return _flattened(stored)
