"""What can be compared: a GPT of numgpt, a folder or file with one, a debug state of llm.c, a PyTorch module."""

import functools
import os
from pathlib import Path

import numpy as np

from .. import user_code
from ..errors import InputError
from ..interchange import huggingface, llmc
from ..model.gpt import GPT
from ..training.optim import AdamW
from .forms import Form, Run
from .modules import Module, is_module


class Ours:
    """A GPT of numgpt, wherever it comes from. optimizer: an AdamW for it, with lr, whose first step is part
    of the run.
    """

    def __init__(self, model, title="numgpt", optimizer=None, lr=None):
        settings = None
        if optimizer is not None:
            if not isinstance(optimizer, AdamW) or lr is None:
                raise InputError(
                    f"parity: the optimizer of {title} is {type(optimizer).__name__} with lr {lr}, expected"
                    " numgpt.AdamW and its lr"
                )
            settings = {
                name: getattr(optimizer, name) for name in ("betas", "eps", "weight_decay", "clip")
            } | {"lr": lr}
        self.title, self.config = title, model.config
        self.form = Form(model.config, model.params.to("reference").astype("float64"), optimizer=settings)

    def run(self, tokens, targets, dtype):
        """The Run of a batch, computed in a dtype."""
        return self.form.run(tokens, targets, dtype)


class Theirs(Module):
    """A PyTorch module, with the form of numgpt that should give the same."""

    @functools.cached_property
    def form(self):
        """The form with the module's parameters."""
        settings = None if self.optimizer is None else _settings(self.optimizer)
        return Form(self.config, self.params(), optimizer=settings)


class State:
    """A debug state of llm.c: logits, loss and the parameters' gradients for the batch in it."""

    dtype, form = np.dtype("float32"), None

    def __init__(self, path, config):
        self.title = f"{path}, a debug state of llm.c"
        self.state = llmc.load_state(path, config)
        self.config, self.batch = config, (self.state["tokens"], self.state["targets"])

    def run(self, tokens, targets, dtype):
        """What the file holds."""
        return Run(
            {},
            {"lm_head": self.state["logits"], "loss": np.float32(self.state["loss"])},
            dict(self.state["grads"]),
        )


def is_state(thing):
    """Whether something is the path of a debug state of llm.c."""
    return (
        isinstance(thing, str | os.PathLike)
        and Path(thing).is_file()
        and llmc.kind_of(thing) == llmc.STATE_MAGIC
    )


def opened(thing, config=None, **module):
    """The side that something is: a GPT, a PyTorch module, or the path of a folder or file. config: of the
    other side, for what a state or a module does not tell.
    """
    if isinstance(thing, GPT):
        return Ours(thing, "numgpt", module.get("optimizer"), module.get("lr"))
    if is_module(thing):
        return Theirs(thing, module.get("names"), module.get("call"), module.get("optimizer"), other=config)
    if not isinstance(thing, str | os.PathLike):
        raise InputError(
            f"parity: cannot compare {type(thing).__name__}, expected a GPT, a PyTorch module, or the path of"
            " a checkpoint, a folder or a file of llm.c"
        )
    if user_code.is_named(thing):
        return Theirs(
            _built(thing), module.get("names"), module.get("call"), module.get("optimizer"), other=config
        )
    path = Path(thing)
    if path.is_file():
        if is_state(path):
            if config is None:
                raise InputError(
                    f"{path}: is a debug state, which has no sizes of a model in it, expected a model as the"
                    " other side"
                )
            return State(path, config)
        return Ours(GPT.load(path), f"{path}, a model of llm.c")
    model = GPT.load(thing)
    return Ours(
        model,
        f"{thing},"
        f" {'a GPT-2 of transformers' if huggingface.find(thing) is not None else 'a checkpoint of numgpt'}",
    )


def _built(text):
    """The PyTorch module that FILE.py:NAME is, or that it gives when called."""
    found = user_code.named(text)
    try:
        built = found() if callable(found) and not is_module(found) else found
    except user_code.RAISED as error:
        raise InputError(
            f"{text}: calling it raised {type(error).__name__}: {error}, expected a PyTorch module, or what"
            " makes one without arguments"
        ) from error
    if not is_module(built):
        raise InputError(
            f"{text}: is {type(built).__name__}, expected a PyTorch module, or what makes one without"
            " arguments"
        )
    return built


def _settings(optimizer):
    """What an AdamW of PyTorch was set to, as numgpt's takes it."""
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
