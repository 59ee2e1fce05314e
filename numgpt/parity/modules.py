"""PyTorch modules of GPTs by numgpt's names: their Config, their parameters, and a run with all values.

nanoGPT's, minGPT's and transformers' GPT-2 are known; others are read by a map of names (see names.py).
Weights of nn.Linear inside a block are transposed, since PyTorch stores them (out, in).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..architecture.config import Config
from ..architecture.parameters import Flat, shapes
from ..errors import InputError
from ..gradcheck.adapters import recording
from ..interchange import architectures
from ..interchange.parameter_names import each
from ..ops.activations import ACTIVATIONS
from ..user_code import RAISED
from .borrowing import as_numpy, borrowed, gradient, hooks, torch
from .forms import Run
from .names import GPT1, GPT2, INPUT, KNOWN, at, filled_in, has

__all__ = ["GPT1", "GPT2", "Call", "Module", "config_of", "is_module", "outcome"]

Call = Callable[[Any, Any, Any], Any]  # (module, tokens, targets) → (logits, loss)
# The kind of a wrapper → where it has what it wraps.
WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}


def is_module(thing: Any) -> bool:
    """Whether something is a torch.nn.Module, without importing PyTorch."""
    return any(c.__name__ == "Module" and c.__module__.startswith("torch.nn.") for c in type(thing).__mro__)


class Module:
    """A PyTorch module read by a map of names.

    call: a function (module, tokens, targets) → (logits, loss); either may be None, or the two in a mapping
    by these names. Unless given, what the module's forward takes decides: targets as in nanoGPT, else the
    loss is the cross-entropy of its logits with the targets, those below 0 left out.
    optimizer: one of torch.optim over the module's parameters; its step then is part of the run.
    config: of the module, read off it unless given. other: the Config of what it is compared with, for the
    number of heads where the module does not tell it.
    """

    def __init__(
        self,
        module: Any,
        names: Any = None,
        call: Call | None = None,
        optimizer: Any = None,
        config: Config | None = None,
        other: Config | None = None,
    ) -> None:
        while type(module).__name__ in WRAPPERS:
            module = getattr(module, WRAPPERS[type(module).__name__])
        self.title = f"{type(module).__name__} of PyTorch"
        _expect_usable(self.title, module)
        if optimizer is not None and not hasattr(optimizer, "param_groups"):
            raise InputError(
                f"{self.title}: its optimizer is {type(optimizer).__name__}, expected one of torch.optim"
            )
        self.module, self.optimizer, self.call = module, optimizer, call or _call
        known = (names_of for names_of in KNOWN if has(module, names_of["wte"]))
        self.names = filled_in(module, names or next(known, GPT2))
        self.paths = {n: p for n, p in self.names.items() if n.rsplit(".", 1)[-1] in ("weight", "bias")}
        self.config = config_of(module, self, other) if config is None else config

    def params(self, dtype: DTypeLike = "float64") -> Flat:
        """The parameters by numgpt's names and in its layout."""
        arrays = self.arrays()
        expected = shapes(self.config)
        unexpected = sorted(set(arrays) ^ set(expected))
        if unexpected:
            name = unexpected[0]
            raise InputError(
                f"{self.title}: {name} is {'not expected' if name in arrays else 'missing'}, expected the"
                f" parameters of {self.config}: give a map of names or another config"
            )
        flat = Flat(expected, dtype)
        for name, array in arrays.items():
            if array.shape != expected[name]:
                raise InputError(f"{self.title}: {name} has shape {array.shape}, expected {expected[name]}")
            flat[name] = array
        return flat

    def run(self, tokens: Any, targets: Any, dtype: DTypeLike) -> Run:
        """A Run of the module in evaluation mode and the dtype; the module stays as it was.

        Values and gradients are seen by hooks. A parameter that the loss does not reach has gradient 0, and
        one that is frozen the gradient that it would have.
        """
        t = torch()
        try:
            borrowing = borrowed(self.module, self.optimizer, getattr(t, np.dtype(dtype).name))
            with recording(t), borrowing as (device, frozen):
                batch = t.from_numpy(tokens).to(device), t.from_numpy(targets).to(device)
                return self._run(*batch, frozen)
        except InputError:
            raise
        except RAISED as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{self.title}: running it raised {type(error).__name__}: {reason} for tokens of shape"
                f" {tokens.shape} in {np.dtype(dtype).name}, expected a forward that takes (tokens) or"
                " (tokens, targets): give call, or another dtype"
            ) from error

    def _run(self, tokens: Any, targets: Any, frozen: Iterable[Any]) -> Run:
        """The forward, backward and step of a module that is borrowed; no step changes what is frozen."""
        seen: dict[Any, Any] = {}
        with hooks(self._parts(), seen):
            logits, loss = outcome(self.call(self.module, tokens, targets), targets)
            reported = set()  # logits that are returned for a look may have no gradient
            for name, value in (("lm_head", logits), ("loss", loss)):
                if name not in seen and value is not None:
                    seen[name] = value
                    if value.requires_grad:
                        value.retain_grad()
                    else:
                        reported.add(name)
            loss.backward()
        tensors = self._tensors()
        params = {n: self._array(n, ps).copy() for n, ps in tensors.items()}
        values = {n: _packed(map(as_numpy, vs)) for n, vs in _by_name(seen).items()}
        grads = {
            n: _packed(as_numpy(gradient(v)) for v in vs)
            for n, vs in reversed(_by_name(seen).items())
            if n not in reported
        }
        grads |= {n: self._array(n, map(gradient, ps)) for n, ps in tensors.items()}
        constants = frozenset(n for n, v in seen.items() if not v.requires_grad and n not in reported)
        if self.optimizer is None:
            return Run(params, values, grads, constants=constants)
        for p in frozen:
            p.grad = None
        self.optimizer.step()
        trained = {n: ps for n, ps in tensors.items() if not any(p is f for p in ps for f in frozen)}
        updated = {n: self._array(n, ps).copy() for n, ps in trained.items()}
        return Run(params, values, grads, updated, constants)

    def arrays(self) -> dict[str, Any]:
        """The parameters by numgpt's names, each in its layout."""
        return {name: self._array(name, tensors) for name, tensors in self._tensors().items()}

    def uncalled(self, run: Run) -> list[str]:
        """The parts of the map that a run did not call: a fused function took their weights itself."""
        return [name for name in _by_name(self._parts()) if name not in run.values]

    def unnamed(self) -> list[str]:
        """The parameters, by the module's own names, that no name of the map leads to."""
        named = [tensor for tensors in self._tensors().values() for tensor in tensors]
        return [
            path for path, p in self.module.named_parameters() if not any(p is tensor for tensor in named)
        ]

    def _parts(self) -> dict[Any, tuple[Any, bool]]:
        """Name, or (name, which) of a value in parts → (the module, whether its input is meant)."""
        parts: dict[Any, tuple[Any, bool]] = {}
        for name, path in self.names.items():
            if name in self.paths:
                continue
            paths = each(path)
            for n, one in enumerate(paths):
                part = at(self.module, one)
                if not isinstance(part, torch().nn.Module):
                    raise InputError(
                        f"{self.title}: {one} for {name} is {type(part).__name__}, expected a part that is"
                        f" called: a parameter is named {name}.weight"
                    )
                parts[name if len(paths) == 1 else (name, n)] = part, one.endswith(INPUT)
        return parts

    def _tensors(self) -> dict[str, tuple[Any, ...]]:
        """Name → its Parameters, side by side; a head that is the embedding itself has no name of its own."""
        tensors: dict[str, tuple[Any, ...]] = {}
        for name, path in self.names.items():
            if name in self.paths:
                tensors[name] = (at(self.module, path),)
            elif not path.endswith(INPUT):
                parts = [at(self.module, one) for one in each(path)]
                for kind in ("weight", "bias"):
                    own = tuple(getattr(part, kind, None) for part in parts)
                    if all(isinstance(tensor, torch().nn.Parameter) for tensor in own):
                        tensors[f"{name}.{kind}"] = own
        head, embedding = (tensors.get(f"{name}.weight", (None,)) for name in ("lm_head", "wte"))
        if head[0] is not None and head[0] is embedding[0]:
            del tensors["lm_head.weight"]
        return tensors

    def _array(self, name: str, tensors: Iterable[Any]) -> Any:
        """A parameter, or its gradient, in numgpt's layout."""
        return _packed(self._laid_out(name, tensor) for tensor in tensors)

    def _laid_out(self, name: str, tensor: Any) -> Any:
        """A parameter of one part in numgpt's layout."""
        array = as_numpy(tensor)
        part, kind = name.rsplit(".", 1)
        is_matrix_of_block = name.startswith("h.") and kind == "weight" and array.ndim == 2
        if not is_matrix_of_block or name in self.paths:
            return array
        is_linear = isinstance(at(self.module, each(self.names[part])[0]), torch().nn.Linear)
        return array.T if is_linear else array


def _by_name(seen: Mapping[Any, Any]) -> dict[str, list[Any]]:
    """Name → what was seen under it: several where a key is (name, which), in that order."""
    grouped: dict[str, dict[int, Any]] = {}
    for key, value in seen.items():
        name, which = key if isinstance(key, tuple) else (key, 0)
        grouped.setdefault(name, {})[which] = value
    return {name: [parts[which] for which in sorted(parts)] for name, parts in grouped.items()}


def _packed(arrays: Iterable[Any]) -> Any:
    """Arrays side by side, as numgpt packs them; one alone as it is."""
    first, *others = arrays
    return np.concatenate([first, *others], axis=-1) if others else first


def _expect_usable(title: str, module: Any) -> None:
    """Raise InputError for a module that has no numbers, or none that can be borrowed, or takes no hooks."""
    tensors = [*module.parameters(), *module.buffers()]
    if any(isinstance(part, torch().jit.ScriptModule) for part in module.modules()):
        raise InputError(f"{title}: is a ScriptModule, or has one, expected the module that was scripted")
    if any(torch().nn.parameter.is_lazy(x) for x in tensors):
        raise InputError(f"{title}: has lazy parameters, expected them with numbers: call it once")
    if any(x.is_meta for x in tensors):
        raise InputError(f"{title}: is on the meta device, expected parameters with numbers")
    if any(x.is_inference() for x in tensors):
        raise InputError(
            f"{title}: was built in inference_mode, where parameters have no gradient, expected one built"
            " outside"
        )


def config_of(module: Any, side: Module, other: Config | None = None) -> Config:
    """The Config of a module: sizes from its parameters, the rest from its config and its parts.

    other: the Config that says the number of heads where the module does not.
    """
    settings, arrays = getattr(module, "config", None), side.arrays()
    architecture = None if "wpe.weight" in arrays else architectures.of(_stored(settings))
    if architecture is not None:
        return architecture.config(_stored(settings), f"{side.title}: its config")
    numbers = {int(n.split(".")[1]) for n in side.names if n.startswith("h.")}
    needed = ["wte.weight", "wpe.weight"]
    if numbers:
        needed += ["h.0.attn.c_attn.weight", "h.0.mlp.c_fc.weight"]
    missing = next((n for n in needed if n not in arrays or arrays[n].ndim != 2), None)
    if missing:
        raise InputError(
            f"{side.title}: there is no {missing}, expected the names of nanoGPT, minGPT or transformers'"
            " GPT-2: give a map of names"
        )
    n_head = _n_head(module, settings)
    if n_head is None and other is not None:
        n_head = other.n_head
    if n_head is None and numbers:
        raise InputError(
            f"{side.title}: has no n_head, neither in its config nor in a part, expected one: give a config"
        )
    V, C = arrays["wte.weight"].shape
    return Config(
        vocab_size=V,
        block_size=len(arrays["wpe.weight"]),
        n_layer=1 + max(numbers, default=-1),
        n_head=n_head or 1,
        n_embd=C,
        n_inner=arrays["h.0.mlp.c_fc.weight"].shape[1] if numbers else None,
        bias=("h.0.attn.c_attn.bias" if numbers else "ln_f.bias") in arrays,
        tied="lm_head.weight" not in arrays,
        activation=_activation(module, settings),
        layer_norm_epsilon=_epsilon(module, settings),
        norm_position="pre" if "ln_f.weight" in arrays else "post",
    )


def _stored(settings: Any) -> Any:
    """What a config of transformers would write to a file; None where it is none."""
    return settings.to_dict() if hasattr(settings, "to_dict") else None


def _n_head(module: Any, config: Any) -> int | None:
    """The number of heads, from the config or a part that has it."""
    parts = (m.n_head for m in module.modules() if isinstance(getattr(m, "n_head", None), int))
    return getattr(config, "n_head", None) or next(parts, None)


def _activation(module: Any, config: Any) -> str:
    """The activation, from the config's name for it or the part that computes it; else GPT-2's."""
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


def _class_of(part: Any) -> str:
    """The class of a module as Activation.torch has it."""
    kind = type(part).__name__
    return f"GELU {getattr(part, 'approximate', 'none')}" if kind == "GELU" else kind


def _epsilon(module: Any, config: Any) -> float:
    """LayerNorm's epsilon, from the config or a part that has it; else GPT-2's."""
    parts = (m.eps for m in module.modules() if isinstance(getattr(m, "eps", None), float))
    epsilon = getattr(config, "layer_norm_epsilon", None) or next(parts, None)
    return 1e-5 if epsilon is None else float(epsilon)


def _call(module: Any, tokens: Any, targets: Any) -> Any:
    """What a forward of nanoGPT's form gives, or one that takes tokens alone, such as transformers'."""
    takes_targets = "targets" in inspect.signature(module.forward).parameters
    return module(tokens, targets) if takes_targets else module(tokens)


def outcome(out: Any, targets: Any) -> tuple[Any, Any]:
    """(logits or None, loss) of what a forward returned.

    A pair, a mapping with logits and loss, logits alone or a loss alone.
    """
    logits, loss = _logits_and_loss(out)
    if loss is None:
        if logits is None or logits.shape[:-1] != targets.shape:
            got = type(out).__name__ if logits is None else f"logits of shape {tuple(logits.shape)}"
            shape = ", ".join(map(str, targets.shape))
            raise InputError(
                f"parity: the module gave {got} and no loss, expected logits ({shape}, V), a loss, or both:"
                " give call"
            )
        ids = targets.flatten().clamp(min=-1)
        loss = torch().nn.functional.cross_entropy(logits.flatten(0, -2), ids, ignore_index=-1)
    if not loss.requires_grad:
        raise InputError(
            "parity: the module's loss has no gradient, expected one that its parameters act on: is it"
            " computed without no_grad and detach?"
        )
    return logits, loss.reshape(())


def _logits_and_loss(out: Any) -> tuple[Any, Any]:
    """What of a forward's result is which, None for what is not there: a loss is a single number."""
    if hasattr(out, "get"):
        return out.get("logits"), out.get("loss")
    parts = out if isinstance(out, tuple | list) else (out,)
    floats = [x for x in parts if isinstance(x, torch().Tensor) and x.is_floating_point()]
    losses = [x for x in floats if x.numel() == 1 and x.ndim < 2]
    logits = [x for x in floats if x.numel() != 1 or x.ndim >= 2]
    return next(iter(logits), None), next(iter(losses), None)
