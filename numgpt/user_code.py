"""What a user names as FILE.py:NAME or package.module:NAME on the command line: their own code, imported as Python would."""

import importlib
import importlib.util
import re
import sys
from pathlib import Path

from .errors import InputError

RAISED = (Exception, SystemExit)  # whatever a user's code raises, but for Ctrl-C
NAMED = re.compile(r"(?P<place>.+):(?P<name>[^\W\d]\w*)")


def is_named(text):
    """Whether a text has the form of FILE.py:NAME or package.module:NAME, and is no path of a file or folder itself."""
    match = NAMED.fullmatch(str(text))
    return bool(match) and not Path(text).exists() and (match["place"].endswith(".py") or re.fullmatch(r"[\w.]+", match["place"]) is not None) and match["place"] != "hf"


def module_of(text):
    """(the imported module, the name after the colon) of such a text. The file's folder is searched for what it imports."""
    place, name = NAMED.fullmatch(str(text)).group("place", "name")
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place), name
        if not Path(place).is_file():
            raise InputError(f"{place}: does not exist, expected a Python file before :{name}")
        folder = str(Path(place).resolve().parent)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(spec.name, module)  # pickles and dataclasses of the file look for it there
        spec.loader.exec_module(module)
        return module, name
    except InputError:
        raise
    except RAISED as error:
        raise InputError(f"{place}: importing it raised {type(error).__name__}: {error}, expected code that runs") from error


def named(text):
    """The object that a text names."""
    module, name = module_of(text)
    if not hasattr(module, name):
        known = [n for n in vars(module) if not n.startswith("_")]
        raise InputError(f"{text}: there is no {name}, expected one of {', '.join(known[-6:])}")
    return getattr(module, name)


def pair(text):
    """(forward, backward, the Op if it is one) that a text names.

    NAME may be an Op, a pair of functions, the beginning of NAME_forward and NAME_backward, a torch.autograd.Function, or a
    function of PyTorch tensors whose name ends in _torch, of JAX arrays whose name ends in _jax.
    """
    from . import gradcheck
    from .ops import Op

    module, name = module_of(text)
    found, halves = getattr(module, name, None), [getattr(module, f"{name}_{half}", None) for half in ("forward", "backward")]
    if isinstance(found, Op):
        return found.forward, found.backward, found
    if all(map(callable, halves)):
        return *halves, None
    found = named(text) if found is None else found
    if isinstance(found, tuple) and len(found) == 2 and all(map(callable, found)):
        return *found, None
    if isinstance(found, type) and any(c.__module__.startswith("torch.autograd") for c in found.__mro__):
        return *gradcheck.from_torch(found.apply), None
    for ending, adapter in (("_torch", gradcheck.from_torch), ("_jax", gradcheck.from_jax)):
        if callable(found) and name.endswith(ending):
            return *adapter(found), None
    raise InputError(
        f"{text}: is {type(found).__name__}, expected {name}_forward and {name}_backward, a pair of functions, an Op, a torch.autograd.Function, "
        f"or a function whose name ends in _torch or _jax"
    )
