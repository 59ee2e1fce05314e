"""A user's own code, named on the command line as FILE.py:NAME or package.module:NAME, and imported."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import InputError

RAISED = (Exception, SystemExit)  # whatever a user's code may raise; Ctrl-C is none of it
NAMED = re.compile(r"(?P<place>.+):(?P<name>[^\W\d]\w*)")

# The folder that is searched for imports → the modules and sys.path from before it was searched.
_searched: dict[Path, tuple[set[str], list[str]]] = {}


def is_named(text: str | os.PathLike[str]) -> bool:
    """Whether a text has the form of FILE.py:NAME or package.module:NAME, and is not itself a path."""
    match = NAMED.fullmatch(str(text))
    if match is None or match["place"] in ("hf", "numgpt") or Path(text).exists():
        return False
    return match["place"].endswith(".py") or re.fullmatch(r"[\w.]+", match["place"]) is not None


def module_of(text: str) -> tuple[ModuleType, str]:
    """(the imported module, the name after the colon). A file's own imports are looked for in its folder."""
    place, _, name = str(text).rpartition(":")
    try:
        if place.endswith(".py"):
            return _imported(Path(place), name), name
        _search(Path.cwd())  # Python searches it for python -m, but not for the installed command
        return importlib.import_module(place), name
    except InputError:
        raise
    except RAISED as error:
        raise InputError(
            f"{place}: importing it raised {type(error).__name__}: {error}, expected code that runs"
        ) from error


def _imported(path: Path, name: str) -> ModuleType:
    if not path.is_file():
        raise InputError(f"{path}: does not exist, expected a Python file before :{name}")
    _search(path.resolve().parent)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(spec.name, module)  # pickles and dataclasses of the file look for it there
    spec.loader.exec_module(module)
    return module


def _search(folder: Path) -> None:
    """Search a folder first for all further imports.

    What was imported from the folder searched before is forgotten: two versions of one project give their
    modules the same names.
    """
    for other in [searched for searched in _searched if searched != folder]:
        modules_before, path_before = _searched.pop(other)
        for name in set(sys.modules) - modules_before:
            top = name.split(".")[0]
            if top != __package__ and _lies_in(sys.modules[name], other, top):
                del sys.modules[name]
        sys.path[:] = path_before
    if folder not in _searched:
        _searched[folder] = set(sys.modules), list(sys.path)
        sys.path.insert(0, str(folder))


def _lies_in(module: ModuleType, folder: Path, top: str) -> bool:
    """Whether a module's file is FOLDER/top.py, or lies in the package FOLDER/top."""
    file = getattr(module, "__file__", None) or ""
    return file == str(folder / f"{top}.py") or Path(file).is_relative_to(folder / top)


def named(text: str) -> Any:
    """The object that a text names."""
    module, name = module_of(text)
    thing = attribute(module, name)
    if thing is None and name not in vars(module):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise InputError(f"{text}: there is no {name}, expected one of {', '.join(public[-6:])}")
    return thing


def attribute(module: ModuleType, name: str) -> Any:
    """What a module has under a name, or None; a module's __getattr__ may raise anything."""
    try:
        return getattr(module, name, None)
    except RAISED:
        return None
