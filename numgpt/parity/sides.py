"""What can be compared: a GPT, a folder or file that holds one, a debug state of llm.c, a PyTorch module."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np

from .. import user_code
from ..architecture.config import Config
from ..errors import InputError
from ..interchange import gguf, huggingface, llama2c, llmc
from ..model.gpt import GPT
from ..training.optim import AdamW
from .forms import Form, Run
from .modules import Module, is_module


class Ours:
    """A GPT of numgpt, wherever it comes from.

    optimizer: an AdamW for it, with lr, whose first step is part of the run.
    """

    def __init__(
        self, model: GPT, title: str = "numgpt", optimizer: Any = None, lr: float | None = None
    ) -> None:
        settings = None
        if optimizer is not None:
            if not isinstance(optimizer, AdamW) or lr is None:
                raise InputError(
                    f"parity: the optimizer of {title} is {type(optimizer).__name__} with lr {lr}, expected"
                    " numgpt.AdamW and its lr"
                )
            if optimizer.names is not None:
                raise InputError(
                    f"parity: the optimizer of {title} moves a part of the parameters, expected one that"
                    " moves all: leave its names out"
                )
            settings = {name: getattr(optimizer, name) for name in ("betas", "eps", "weight_decay", "clip")}
            settings["lr"] = lr
        self.title, self.config = title, model.config
        wide = model.to("reference").astype("float64").plain()  # adapters and masks are part of a matrix
        self.form = Form(model.config, wide.params, optimizer=settings, served=wide.served)

    def run(self, tokens: Any, targets: Any, dtype: str) -> Run:
        """The Run of a batch, computed in a dtype."""
        return self.form.run(tokens, targets, dtype)


class Theirs(Module):
    """A PyTorch module, with the form of numgpt that should give the same."""

    @functools.cached_property
    def form(self) -> Form:
        """The form with the module's parameters."""
        settings = None if self.optimizer is None else _settings(self.optimizer)
        return Form(self.config, self.params(), optimizer=settings)


class State:
    """A debug state of llm.c: logits, loss and the parameters' gradients for the batch in it."""

    dtype = np.dtype("float32")
    form = None

    def __init__(self, path: str | os.PathLike[str], config: Config) -> None:
        self.title = f"{path}, a debug state of llm.c"
        self.state = llmc.load_state(path, config)
        self.config = config
        self.batch = self.state["tokens"], self.state["targets"]

    def run(self, tokens: Any, targets: Any, dtype: str) -> Run:
        """What the file holds."""
        values = {"lm_head": self.state["logits"], "loss": np.float32(self.state["loss"])}
        return Run({}, values, dict(self.state["grads"]))


def is_state(thing: Any) -> bool:
    """Whether something is the path of a debug state of llm.c."""
    is_file = isinstance(thing, str | os.PathLike) and Path(thing).is_file()
    if not is_file or gguf.is_model(thing) or llama2c.is_model(thing):
        return False
    return bool(llmc.kind_of(thing) == llmc.STATE_MAGIC)


def title_of_file(path: str | os.PathLike[str]) -> str:
    """What a model's file is called."""
    others = {"GGUF": gguf.is_model, "llama2.c": llama2c.is_model}
    return f"{path}, a model of {next((name for name, has in others.items() if has(path)), 'llm.c')}"


def opened(
    thing: Any,
    config: Config | None = None,
    *,
    names: Any = None,
    call: Any = None,
    optimizer: Any = None,
    lr: float | None = None,
) -> Ours | Theirs | State:
    """The side that something is: a GPT, a PyTorch module, or the path of a folder or file.

    config: of the other side, for what a state or a module does not tell.
    """
    if isinstance(thing, GPT):
        return Ours(thing, "numgpt", optimizer, lr)
    if is_module(thing):
        return Theirs(thing, names, call, optimizer, other=config)
    if not isinstance(thing, str | os.PathLike):
        raise InputError(
            f"parity: cannot compare {type(thing).__name__}, expected a GPT, a PyTorch module, or the path of"
            " a checkpoint, a folder or a file of llm.c or llama2.c"
        )
    if user_code.is_named(thing):
        return Theirs(_built(thing), names, call, optimizer, other=config)
    path = Path(thing)
    if not path.is_file():
        model, theirs = GPT.load(thing), huggingface.find(thing)
        kind = "checkpoint of numgpt" if theirs is None else f"{huggingface.class_of(theirs)} of transformers"
        return Ours(model, f"{thing}, a {kind}")
    if not is_state(path):
        return Ours(GPT.load(path), title_of_file(path))
    if config is None:
        raise InputError(
            f"{path}: is a debug state, which does not hold the sizes of a model, expected a model as the"
            " other side"
        )
    return State(path, config)


def _built(text: Any) -> Any:
    """The PyTorch module that FILE.py:NAME is, or that it returns when called."""
    named = user_code.named(text)
    try:
        built = named() if callable(named) and not is_module(named) else named
    except user_code.RAISED as error:
        raise InputError(
            f"{text}: calling it raised {type(error).__name__}: {error}, expected a PyTorch module, or a"
            " function without arguments that returns one"
        ) from error
    if not is_module(built):
        raise InputError(
            f"{text}: is {type(built).__name__}, expected a PyTorch module, or a function without arguments"
            " that returns one"
        )
    return built


def _settings(optimizer: Any) -> dict[str, Any]:
    """The settings of an AdamW of PyTorch, as numgpt's takes them."""
    groups = optimizer.param_groups
    if type(optimizer).__name__ != "AdamW":
        raise InputError(f"parity: the optimizer is {type(optimizer).__name__}, expected torch.optim.AdamW")
    decay = max(g["weight_decay"] for g in groups)
    return {
        "betas": tuple(groups[0]["betas"]),
        "eps": groups[0]["eps"],
        "weight_decay": decay,
        "clip": 0,
        "lr": float(groups[0]["lr"]),
    }
