"""PyTorch modules of GPTs by numgpt's names: nanoGPT's, minGPT's and transformers' GPT-2 are known, others
are given as a map.

A map goes from numgpt's name of a part to the module's path: {"h.{i}.attn.c_attn":
"blocks.{i}.attention.qkv"}. A path that ends in ":input" is what goes into that module. The module's output
is the part's value, its weight and bias are the part's parameters (those of nn.Linear inside a block turned,
since PyTorch keeps them (out, in)); a parameter that stands alone has an entry of its own, {"wpe.weight":
"position_table"}.
"""

import re

import numpy as np

from ..architecture.config import Config
from ..architecture.parameters import Flat, shapes
from ..errors import InputError
from ..ops.activations import ACTIVATIONS
from ..user_code import RAISED
from .borrowing import as_numpy, borrowed, gradient, hooks, torch
from .forms import Run

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
}  # of nanoGPT, minGPT and transformers alike
GPT1 = {n: p for n, p in GPT2.items() if n != "ln_f"} | {
    "wte": "transformer.tokens_embed",
    "wpe.weight": "transformer.positions_embed.weight",
    "h.{i}.mlp": "transformer.h.{i}.mlp",
}  # of transformers
KNOWN = (GPT2, GPT1)
OPTIONAL = ("drop", "h.{i}.mlp")
NAMES = (
    *GPT2,
    "h.{i}.attn.resid_dropout",
    "h.{i}.mlp.dropout",
    "loss",
)  # all of numgpt's, but for those of parameters
WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
}  # kind -> where what it wraps is


def is_module(thing):
    """Whether something is a torch.nn.Module, without importing PyTorch."""
    return any(c.__name__ == "Module" and c.__module__.startswith("torch.nn.") for c in type(thing).__mro__)


class Module:
    """A PyTorch module read by a map of names.

    call: a function (module, tokens, targets) -> (logits, loss); unless given, what the module's forward
    takes decides: targets as in nanoGPT, else the loss is the cross-entropy of its logits with the targets,
    those below 0 left out. Either may be None, or the two in a mapping by these names.
    optimizer: one of torch.optim over the module's parameters; its step then is part of the run.
    config: of the module, read off it unless given; other: the Config of what it is compared with, for the
    number of heads where the module does not tell it.
    """

    def __init__(self, module, names=None, call=None, optimizer=None, config=None, other=None):
        while type(module).__name__ in WRAPPERS:
            module = getattr(module, WRAPPERS[type(module).__name__])
        if any(p.is_meta for p in module.parameters()):
            raise InputError(
                f"{type(module).__name__} of PyTorch: is on the meta device, expected parameters with numbers"
            )
        if optimizer is not None and not hasattr(optimizer, "param_groups"):
            raise InputError(
                f"{type(module).__name__} of PyTorch: its optimizer is {type(optimizer).__name__}, expected"
                " one of torch.optim"
            )
        self.module, self.optimizer, self.call = module, optimizer, call or _call
        self.title = f"{type(module).__name__} of PyTorch"
        self.names = _expand(module, names or next((m for m in KNOWN if _has(module, m["wte"])), GPT2))
        self.paths = {n: p for n, p in self.names.items() if n.rsplit(".", 1)[-1] in ("weight", "bias")}
        self.config = config_of(module, self, other) if config is None else config

    def params(self, dtype="float64"):
        """The parameters by numgpt's names and in its layout, as a Flat."""
        found = {name: self._array(name, tensor) for name, tensor in self._tensors().items()}
        wanted = shapes(self.config)
        odd = sorted(set(found) ^ set(wanted))
        if odd:
            raise InputError(
                f"{self.title}: {odd[0]} is {'not expected' if odd[0] in found else 'missing'}, expected the"
                f" parameters of {self.config}: give a map of names or another config"
            )
        flat = Flat(wanted, dtype)
        for name, array in found.items():
            if array.shape != wanted[name]:
                raise InputError(f"{self.title}: {name} has shape {array.shape}, expected {wanted[name]}")
            flat[name] = array
        return flat

    def run(self, tokens, targets, dtype):
        """A Run of the module in evaluation mode and the dtype: values and gradients by hooks. The module
        stays as it was.

        A parameter that the loss does not reach has gradient 0, as one that is frozen has the gradient that
        it would have.
        """
        t = torch()
        try:
            with borrowed(self.module, self.optimizer, getattr(t, np.dtype(dtype).name)) as (device, frozen):
                return self._run(t, t.from_numpy(tokens).to(device), t.from_numpy(targets).to(device), frozen)
        except InputError:
            raise
        except RAISED as error:
            said = " ".join(str(error).split())
            raise InputError(
                f"{self.title}: running it raised {type(error).__name__}: {said} for tokens of shape"
                f" {tokens.shape} in {np.dtype(dtype).name}, expected a forward that takes (tokens) or"
                " (tokens, targets): give call, or another dtype"
            ) from error

    def _run(self, t, tokens, targets, frozen):
        """run's forward, backward and step, of a module that is borrowed. frozen: the parameters that no step
        changes.
        """
        found = {}
        with hooks(self._parts(), found), t.enable_grad():
            logits, loss = outcome(self.call(self.module, tokens, targets), targets)
            for name, value in (("lm_head", logits), ("loss", loss)):
                if name not in found and value is not None:
                    value.retain_grad()
                    found[name] = value
            loss.backward()
        tensors = self._tensors()
        params = {n: self._array(n, p).copy() for n, p in tensors.items()}
        values = {n: as_numpy(v) for n, v in found.items()}
        grads = {n: as_numpy(gradient(v)) for n, v in reversed(found.items()) if v.requires_grad}
        grads |= {n: self._array(n, gradient(p)) for n, p in tensors.items()}
        if self.optimizer is None:
            return Run(params, values, grads)
        for p in frozen:
            p.grad = None
        self.optimizer.step()
        return Run(
            params,
            values,
            grads,
            {n: self._array(n, p).copy() for n, p in tensors.items() if not any(p is f for f in frozen)},
        )

    def _parts(self):
        """Name -> (the module, whether its input is meant) of all that is a value."""
        found = {
            n: (_at(self.module, p), p.endswith(":input"))
            for n, p in self.names.items()
            if n not in self.paths
        }
        odd = next((n for n, (part, _) in found.items() if not isinstance(part, torch().nn.Module)), None)
        if odd:
            raise InputError(
                f"{self.title}: {self.names[odd]} for {odd} is {type(found[odd][0]).__name__}, expected a"
                f" part that is called: a parameter is named {odd}.weight"
            )
        return found

    def _tensors(self):
        """Name -> Parameter; a head that is the embedding itself has no name of its own."""
        found = {}
        for name, path in self.names.items():
            if name in self.paths:
                found[name] = _at(self.module, path)
            elif not path.endswith(":input"):
                part = _at(self.module, path)
                found |= {
                    f"{name}.{p}": getattr(part, p)
                    for p in ("weight", "bias")
                    if _is_parameter(getattr(part, p, None))
                }
        if "lm_head.weight" in found and found["lm_head.weight"] is found.get("wte.weight"):
            del found["lm_head.weight"]
        return found

    def _array(self, name, tensor):
        """A parameter, or its gradient, in numgpt's layout."""
        array = as_numpy(tensor)
        part, kind = name.rsplit(".", 1)
        turned = name.startswith("h.") and kind == "weight" and array.ndim == 2 and name not in self.paths
        return (
            array.T if turned and isinstance(_at(self.module, self.names[part]), torch().nn.Linear) else array
        )


def config_of(module, side, other=None):
    """The Config of a module: sizes from its parameters, the rest from its config and the kinds of its parts,
    heads else from another Config.
    """
    tensors, config = side._tensors(), getattr(module, "config", None)
    arrays = {name: side._array(name, tensor) for name, tensor in tensors.items()}
    blocks = {int(n.split(".")[1]) for n in side.names if n.startswith("h.")}
    wanted = ("wte.weight", "wpe.weight") + (
        ("h.0.attn.c_attn.weight", "h.0.mlp.c_fc.weight") if blocks else ()
    )
    missing = next((n for n in wanted if arrays.get(n, np.zeros(0)).ndim != 2), None)
    if missing:
        raise InputError(
            f"{side.title}: there is no {missing}, expected the names of nanoGPT, minGPT or transformers'"
            " GPT-2: give a map of names"
        )
    n_head = getattr(config, "n_head", None) or next(
        (m.n_head for m in module.modules() if isinstance(getattr(m, "n_head", None), int)), None
    )
    n_head = n_head or (other.n_head if other is not None else None if blocks else 1)
    if n_head is None:
        raise InputError(
            f"{side.title}: has no n_head, neither in its config nor in a part, expected one: give a config"
        )
    V, C = arrays["wte.weight"].shape
    return Config(
        vocab_size=V, block_size=len(arrays["wpe.weight"]), n_layer=1 + max(blocks, default=-1),
        n_head=n_head, n_embd=C, n_inner=arrays["h.0.mlp.c_fc.weight"].shape[1] if blocks else None, bias=("h.0.attn.c_attn.bias" if blocks else "ln_f.bias") in arrays,
        tied="lm_head.weight" not in arrays, activation=_activation(module, config), layer_norm_epsilon=_epsilon(module, config),
        norm_position="pre" if "ln_f.weight" in arrays else "post",
    )  # fmt: skip


def _activation(module, config):
    """The feed-forward's activation, from the config's name for it or the part that computes it; else GPT-2's."""
    named = getattr(config, "activation_function", None)
    classes = [_class_of(part) for part in module.modules()]
    for name, row in ACTIVATIONS.items():
        if named in row.transformers:
            return name
    for kind in classes:
        for name, row in ACTIVATIONS.items():
            if kind in row.torch:
                return name
    return Config.activation


def _class_of(part):
    """The class of a module as Activation.torch has it."""
    kind = type(part).__name__
    return f"GELU {getattr(part, 'approximate', 'none')}" if kind == "GELU" else kind


def _epsilon(module, config):
    found = getattr(config, "layer_norm_epsilon", None) or next(
        (m.eps for m in module.modules() if isinstance(getattr(m, "eps", None), float)), None
    )
    return 1e-5 if found is None else float(found)


def _call(module, tokens, targets):
    """What a forward of nanoGPT's form gives, or one that takes tokens alone, such as transformers'."""
    import inspect

    return (
        module(tokens, targets)
        if "targets" in inspect.signature(module.forward).parameters
        else module(tokens)
    )


def outcome(out, targets):
    """(logits or None, loss) of what a forward gave: a pair, a mapping with logits and loss, logits or a loss
    alone.
    """
    t = torch()
    if hasattr(out, "get"):
        logits, loss = out.get("logits"), out.get("loss")
    else:
        parts = [
            x
            for x in (out if isinstance(out, tuple | list) else (out,))
            if isinstance(x, t.Tensor) and x.is_floating_point()
        ]
        logits, loss = (
            next((x for x in parts if (x.numel() == 1 and x.ndim < 2) is alone), None)
            for alone in (False, True)
        )
    if loss is None:
        if logits is None or logits.shape[:-1] != targets.shape:
            what = f"logits of shape {tuple(logits.shape)}" if logits is not None else type(out).__name__
            raise InputError(
                f"parity: the module gave {what} and no loss, expected logits {(*targets.shape, 'V')}, a"
                " loss, or both: give call".replace("'V'", "V")
            )
        ids = targets.flatten().clamp(min=-1)
        loss = t.nn.functional.cross_entropy(logits.flatten(0, -2), ids, ignore_index=-1)
    if not loss.requires_grad:
        raise InputError(
            "parity: the module's loss has no gradient, expected one that its parameters act on: is it"
            " computed without no_grad and detach?"
        )
    return logits, loss.reshape(())


def _expand(module, names):
    """The map with {i} filled in for each block that there is, without what is not there but may be so."""
    if not isinstance(names, dict) or not all(
        isinstance(n, str) and isinstance(p, str) for n, p in names.items()
    ):
        raise InputError(
            "parity: the map of names is not one of strings to strings, expected numgpt's name -> the"
            " module's path"
        )
    found = {}
    for name, path in names.items():
        general = re.sub(r"^h\.\d+(?=\.|$)", "h.{i}", name)
        if general not in NAMES and not (
            general.endswith((".weight", ".bias")) and general.rsplit(".", 1)[0] in NAMES
        ):
            raise InputError(
                f"parity: the map names {name}, which numgpt does not have, expected some of"
                f" {', '.join(NAMES)}, or of a parameter such as wpe.weight"
            )
        if ("{i}" in name) is not ("{i}" in path):
            raise InputError(
                f"parity: the map has {name} -> {path}, expected {{i}}, the number of the block, on both"
                " sides or on none"
            )
        wanted = [(name, path)]
        if "{i}" in name:
            stem = path.split("{i}")[0].rstrip(".")
            blocks = _at(module, stem) if _has(module, stem) else None
            if hasattr(blocks, "__len__"):
                wanted = [
                    (name.replace("{i}", str(i)), path.replace("{i}", str(i))) for i in range(len(blocks))
                ]
        for n, p in wanted:
            if _has(module, p.removesuffix(":input")):
                found[n] = p
            elif name not in OPTIONAL:
                near = [
                    q
                    for q, _ in module.named_modules()
                    if q.rsplit(".", 1)[-1] == p.removesuffix(":input").rsplit(".", 1)[-1]
                ]
                hint = (
                    f" such as {near[0]}"
                    if near
                    else f", for it has {', '.join(q for q, _ in list(module.named_children())[:6])}"
                )
                raise InputError(
                    f"{type(module).__name__} of PyTorch: has no {p} for {n}, expected a path{hint}: give a"
                    " map of names"
                )
    return found


def _at(module, path):
    """What a path of names and indices leads to."""
    for part in path.removesuffix(":input").split(".") if path else ():
        module = (
            module[int(part)]
            if re.fullmatch(r"\d+", part) and not hasattr(module, part)
            else getattr(module, part)
        )
    return module


def _has(module, path):
    try:
        return _at(module, path) is not None
    except (AttributeError, IndexError, KeyError, TypeError):
        return False


def _is_parameter(thing):
    return isinstance(thing, torch().nn.Parameter)
