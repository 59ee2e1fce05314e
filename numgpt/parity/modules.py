"""PyTorch modules of GPTs by numgpt's names: nanoGPT's, minGPT's and transformers' GPT-2 are known, others are given as a map.

A map goes from numgpt's name of a part to the module's path: {"h.{i}.attn.c_attn": "blocks.{i}.attention.qkv"}. A path that ends
in ":input" is what goes into that module. The module's output is the part's value, its weight and bias are the part's parameters
(those of nn.Linear inside a block turned, since PyTorch keeps them (out, in)); a parameter that stands alone has an entry of its
own, {"wpe.weight": "position_table"}.
"""

import collections
import contextlib
import re

import numpy as np

from ..config import Config
from ..errors import InputError
from ..parameters import Flat, shapes
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


def torch():
    """PyTorch, or one line that says how to get it."""
    try:
        import torch
    except ImportError:
        raise InputError("parity: PyTorch is not installed, expected it to compare with: pip install numgpt[verify]") from None
    return torch


def is_module(thing):
    """Whether something is a torch.nn.Module, without importing PyTorch."""
    return any(c.__name__ == "Module" and c.__module__.startswith("torch.nn.") for c in type(thing).__mro__)


class Module:
    """A PyTorch module read by a map of names.

    call: a function (module, tokens, targets) -> (logits, loss); unless given, what the module's forward takes decides:
    targets as in nanoGPT, else the loss is the cross-entropy of its logits with the targets, those below 0 left out.
    optimizer: one of torch.optim over the module's parameters; its step then is part of the run.
    """

    def __init__(self, module, names=None, call=None, optimizer=None, config=None):
        self.module, self.optimizer, self.call = module, optimizer, call or _call
        self.title = f"{type(module).__name__} of PyTorch"
        self.names = _expand(module, names or next((m for m in KNOWN if _has(module, m["wte"])), GPT2))
        self.paths = {n: p for n, p in self.names.items() if n.rsplit(".", 1)[-1] in ("weight", "bias")}
        self.config = config_of(module, self) if config is None else config

    def params(self, dtype="float64"):
        """The parameters by numgpt's names and in its layout, as a Flat."""
        found = {name: self._array(name, tensor) for name, tensor in self._tensors().items()}
        wanted = shapes(self.config)
        odd = sorted(set(found) ^ set(wanted))
        if odd:
            raise InputError(
                f"{self.title}: {odd[0]} is {'not expected' if odd[0] in found else 'missing'}, expected the parameters of {self.config}: "
                "give a map of names or another config"
            )
        flat = Flat(wanted, dtype)
        for name, array in found.items():
            if array.shape != wanted[name]:
                raise InputError(f"{self.title}: {name} has shape {array.shape}, expected {wanted[name]}")
            flat[name] = array
        return flat

    def run(self, tokens, targets, dtype):
        """A Run of the module in evaluation mode and the dtype: values and gradients by hooks. The module stays as it was."""
        t, found = torch(), {}
        with _borrowed(self.module, self.optimizer, getattr(t, np.dtype(dtype).name)) as device:
            with _hooks(self.module, {n: p for n, p in self.names.items() if n not in self.paths}, found), t.enable_grad():
                logits, loss = self.call(self.module, t.from_numpy(tokens).to(device), t.from_numpy(targets).to(device))
                for name, value in (("lm_head", logits), ("loss", loss)):
                    if name not in found and value is not None:
                        value.retain_grad()
                        found[name] = value
                loss.backward()
            tensors = self._tensors()
            params = {n: self._array(n, p).copy() for n, p in tensors.items()}
            values = {n: _numpy(v) for n, v in found.items()}
            grads = {n: _numpy(v.grad) for n, v in reversed(found.items()) if v.grad is not None}
            grads |= {n: self._array(n, p.grad) for n, p in tensors.items() if p.grad is not None}
            if self.optimizer is None:
                return Run(params, values, grads)
            self.optimizer.step()
            return Run(params, values, grads, {n: self._array(n, p).copy() for n, p in tensors.items()})

    def _tensors(self):
        """Name -> Parameter; a head that is the embedding itself has no name of its own."""
        found = {}
        for name, path in self.names.items():
            if name in self.paths:
                found[name] = _at(self.module, path)
            elif not path.endswith(":input"):
                part = _at(self.module, path)
                found |= {f"{name}.{p}": getattr(part, p) for p in ("weight", "bias") if _is_parameter(getattr(part, p, None))}
        if "lm_head.weight" in found and found["lm_head.weight"] is found.get("wte.weight"):
            del found["lm_head.weight"]
        return found

    def _array(self, name, tensor):
        """A parameter, or its gradient, in numgpt's layout."""
        array = _numpy(tensor)
        part, kind = name.rsplit(".", 1)
        turned = name.startswith("h.") and kind == "weight" and array.ndim == 2 and name not in self.paths
        return array.T if turned and type(_at(self.module, self.names[part])).__name__ == "Linear" else array


def config_of(module, side):
    """The Config of a module: sizes from its parameters, the rest from its config and the kinds of its parts."""
    tensors, config = side._tensors(), getattr(module, "config", None)
    arrays = {name: side._array(name, tensor) for name, tensor in tensors.items()}
    missing = next((n for n in ("wte.weight", "wpe.weight", "h.0.attn.c_attn.weight", "h.0.mlp.c_fc.weight") if n not in arrays), None)
    if missing:
        raise InputError(f"{side.title}: there is no {missing}, expected the names of nanoGPT, minGPT or transformers' GPT-2: give a map of names")
    n_head = getattr(config, "n_head", None) or next((m.n_head for m in module.modules() if isinstance(getattr(m, "n_head", None), int)), None)
    if n_head is None:
        raise InputError(f"{side.title}: has no n_head, neither in its config nor in a part, expected one: give a config")
    V, C = arrays["wte.weight"].shape
    return Config(
        vocab_size=V, block_size=len(arrays["wpe.weight"]), n_layer=1 + max(int(n.split(".")[1]) for n in arrays if n.startswith("h.")),
        n_head=n_head, n_embd=C, n_inner=arrays["h.0.mlp.c_fc.weight"].shape[1], bias="h.0.attn.c_attn.bias" in arrays,
        tied="lm_head.weight" not in arrays, activation=_activation(module, config), layer_norm_epsilon=_epsilon(module, config),
        norm_position="pre" if "ln_f.weight" in arrays else "post",
    )  # fmt: skip


def _activation(module, config):
    """The feed-forward's activation, from the config's name for it or the part that computes it; else GPT-2's."""
    from ..huggingface import ACTIVATIONS

    named = getattr(config, "activation_function", None)
    if named in ACTIVATIONS:
        return ACTIVATIONS[named]
    for part in module.modules():
        kind = type(part).__name__
        if kind == "GELU":
            return "gelu_tanh" if getattr(part, "approximate", "none") == "tanh" else "gelu"
        if kind in ("NewGELU", "NewGELUActivation"):
            return "gelu_tanh"
        if kind == "ReLU":
            return "relu"
    return "gelu_tanh"


def _epsilon(module, config):
    found = getattr(config, "layer_norm_epsilon", None) or next((m.eps for m in module.modules() if isinstance(getattr(m, "eps", None), float)), None)
    return 1e-5 if found is None else float(found)


def _call(module, tokens, targets):
    """(logits, loss) of nanoGPT's form, of one that gives logits, or of transformers'."""
    import inspect

    if "targets" in inspect.signature(module.forward).parameters:
        return module(tokens, targets)
    logits = module(tokens)
    logits = getattr(logits, "logits", logits)
    loss = torch().nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten().clamp(min=-1), ignore_index=-1)
    return logits, loss


def _expand(module, names):
    """The map with {i} filled in for each block that there is, without what is not there but may be so."""
    if not isinstance(names, dict) or not all(isinstance(n, str) and isinstance(p, str) for n, p in names.items()):
        raise InputError("parity: the map of names is not one of strings to strings, expected numgpt's name -> the module's path")
    found = {}
    for name, path in names.items():
        if "{i}" not in name:
            wanted = [(name, path)]
        else:
            stem = path.split("{i}")[0].rstrip(".")
            blocks = _at(module, stem) if _has(module, stem) else ()
            wanted = [(name.replace("{i}", str(i)), path.replace("{i}", str(i))) for i in range(len(blocks))]
        for n, p in wanted:
            if _has(module, p.removesuffix(":input")):
                found[n] = p
            elif name not in OPTIONAL:
                near = [q for q, _ in module.named_modules() if q.rsplit(".", 1)[-1] == p.removesuffix(":input").rsplit(".", 1)[-1]]
                hint = f" such as {near[0]}" if near else f", for it has {', '.join(q for q, _ in list(module.named_children())[:6])}"
                raise InputError(f"{type(module).__name__} of PyTorch: has no {p} for {n}, expected a path{hint}: give a map of names")
    return found


def _at(module, path):
    """What a path of names and indices leads to."""
    for part in path.removesuffix(":input").split(".") if path else ():
        module = module[int(part)] if re.fullmatch(r"\d+", part) and not hasattr(module, part) else getattr(module, part)
    return module


def _has(module, path):
    try:
        return _at(module, path) is not None
    except (AttributeError, IndexError, KeyError, TypeError):
        return False


def _is_parameter(thing):
    return isinstance(thing, torch().nn.Parameter)


def _numpy(tensor):
    """A tensor as an array; NumPy has no bfloat16, and float32 holds it exactly."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


@contextlib.contextmanager
def _borrowed(module, optimizer, dtype):
    """Within it the module's numbers are copies in a dtype, its gradients gone and its moments 0; yields its device.

    A deep copy of the module would not do: a lambda in it (minGPT has one) goes on to use the original's parts.
    """
    tensors = [*module.parameters(), *module.buffers()]
    kept = [(x, x.data, x.grad) for x in tensors]
    training = [(m, m.training) for m in module.modules()]
    state = None if optimizer is None else optimizer.state
    try:
        for x in tensors:
            x.grad = None
            x.data = x.data.to(dtype if x.is_floating_point() else x.dtype, copy=True)
        module.eval()
        if optimizer is not None:
            optimizer.state = collections.defaultdict(dict)
        yield tensors[0].device
    finally:
        for x, data, grad in kept:
            x.grad = None
            x.data = data
            x.grad = grad
        for m, mode in training:
            m.training = mode
        if optimizer is not None:
            optimizer.state = state


@contextlib.contextmanager
def _hooks(module, names, found):
    """Within it the values of named parts go to found as they are computed, and keep their gradients."""
    handles = []

    def keep(name):
        def hook(part, inputs, output=None):
            value = inputs[0] if output is None else output
            value = value[0] if isinstance(value, tuple | list) else value
            if value.requires_grad:
                value.retain_grad()
            found[name] = value

        return hook

    for name, path in names.items():
        part = _at(module, path)
        if path.endswith(":input"):
            handles.append(part.register_forward_pre_hook(keep(name)))
        else:
            handles.append(part.register_forward_hook(keep(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
