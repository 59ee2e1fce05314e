"""What the public face offers to be called, and which arguments each takes."""

import dataclasses
import importlib.util
import inspect
import types

import numgpt
from numgpt.ops.op import Op

CALLED_BY_LAYERS = {
    "Record",
    "Op",
    "Layer",
}  # whose methods run thousands of times a step, on checked arguments
# Likewise, of a text; and with the shapes that an addition itself gives.
INNER = {"tokenizers.BPE.encode_pretoken"} | {
    f"{addition}.first_value" for addition in ("LoRA", "Head", "Quantized", "Pruned")
}
RESULTS = {"gradcheck.Finding"}  # classes with a constructor whose instances only functions return


def inside(module):
    """Name → what a module of the face offers."""
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]
    return {name: getattr(module, name) for name in names}


def is_made_by_callers(cls):
    """Whether callers make instances, whose class then checks: not what functions return."""
    return ("__init__" in vars(cls) and not dataclasses.is_dataclass(cls)) or hasattr(cls, "__post_init__")


def of_class(name, cls, face):
    """Name → (class or None, what is called) of a class's constructor and methods.

    Methods of a base that is not of the face itself, such as a chapter of the class, are the class's own.
    """
    if is_made_by_callers(cls) and name not in RESULTS and not issubclass(cls, Exception | Op):
        yield name, (None, cls)
    if cls.__name__ in CALLED_BY_LAYERS or issubclass(cls, Exception | tuple):
        return
    chapters = [c for c in cls.__mro__ if c is cls or (_is_ours(c) and c not in face)]
    for method in dict.fromkeys(method for c in chapters for method in vars(c)):
        is_public = method == "__call__" or not method.startswith("_")
        full = f"{name}.{method}"
        if is_public and callable(getattr(cls, method)) and full not in INNER:
            yield full, (cls, method)


def public():
    """Name → (class of the instance it is called on or None, what is called) of everything in the face."""
    face = {name: getattr(numgpt, name) for name in numgpt.__all__}
    for name, value in list(face.items()):
        if isinstance(value, types.ModuleType):
            face |= {f"{name}.{inner}": thing for inner, thing in inside(value).items()}
    for name, value in face.items():
        if getattr(value, "_is_protocol", False):
            continue
        if inspect.isclass(value):
            yield from of_class(name, value, [thing for thing in face.values() if inspect.isclass(thing)])
        elif isinstance(value, Op) or inspect.isfunction(value):
            yield name, (None, value)


def _is_ours(cls):
    return cls.__module__.startswith("numgpt.")


def parameters(name):
    """Those parameters of something public that take one value each."""
    cls, called = PUBLIC[name]
    signature = inspect.signature(called if cls is None else getattr(cls, called))
    return {
        p.name: p
        for p in signature.parameters.values()
        if p.name != "self" and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }


PUBLIC = dict(sorted(public()))
CALLS = [name for name in PUBLIC if parameters(name)]
if not importlib.util.find_spec("sentencepiece"):
    CALLS = [name for name in CALLS if not name.startswith("tokenizers.Unigram")]
if not importlib.util.find_spec("matplotlib"):
    CALLS = [name for name in CALLS if not name.startswith("plots.")]
if not importlib.util.find_spec("jinja2"):
    CALLS = [name for name in CALLS if "Jinja" not in name and name != "data.from_tokenizer_config"]
