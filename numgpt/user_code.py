"""What a user names as FILE.py:NAME or package.module:NAME on the command line: their own code, imported as
Python would.
"""

import importlib
import importlib.util
import re
import sys
from pathlib import Path

from .errors import InputError

RAISED = (Exception, SystemExit)  # whatever a user's code raises, but for Ctrl-C
NAMED = re.compile(r"(?P<place>.+):(?P<name>[^\W\d]\w*)")


def is_named(text):
    """Whether a text has the form of FILE.py:NAME or package.module:NAME, and is no path of a file or folder
    itself.
    """
    match = NAMED.fullmatch(str(text))
    return (
        bool(match)
        and not Path(text).exists()
        and (match["place"].endswith(".py") or re.fullmatch(r"[\w.]+", match["place"]) is not None)
        and match["place"] != "hf"
    )


def module_of(text):
    """(the imported module, the name after the colon) of such a text. The file's folder is searched for what
    it imports.
    """
    place, name = NAMED.fullmatch(str(text)).group("place", "name")
    try:
        if not place.endswith(".py"):
            _search(Path.cwd())  # which Python itself puts there only for python -m
            return importlib.import_module(place), name
        if not Path(place).is_file():
            raise InputError(f"{place}: does not exist, expected a Python file before :{name}")
        _search(Path(place).resolve().parent)
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(spec.name, module)  # pickles and dataclasses of the file look for it there
        spec.loader.exec_module(module)
        return module, name
    except InputError:
        raise
    except RAISED as error:
        raise InputError(
            f"{place}: importing it raised {type(error).__name__}: {error}, expected code that runs"
        ) from error


def _search(folder):
    """Search a folder first for what is imported from now on.

    What was imported from the folder of another file is forgotten: two versions of one project name their
    modules alike.
    """
    for other in [f for f in _searched if f != folder]:
        before, path = _searched.pop(other)
        for name in set(sys.modules) - before:
            top = name.split(".")[0]
            file = getattr(sys.modules[name], "__file__", None) or ""
            if top != __package__ and (
                file == str(other / f"{top}.py") or Path(file).is_relative_to(other / top)
            ):
                del sys.modules[name]
        sys.path[:] = path
    if folder not in _searched:
        _searched[folder] = set(sys.modules), list(sys.path)
        sys.path.insert(0, str(folder))


_searched = {}  # the folder that is searched -> the names of the modules and the path that there were before


def named(text):
    """The object that a text names."""
    module, name = module_of(text)
    found = attribute(module, name)
    if found is None and name not in vars(module):
        known = [n for n in vars(module) if not n.startswith("_")]
        raise InputError(f"{text}: there is no {name}, expected one of {', '.join(known[-6:])}")
    return found


def attribute(module, name):
    """What a module has by a name, None where it has nothing; a module may have a __getattr__ that raises
    anything.
    """
    try:
        return getattr(module, name, None)
    except RAISED:
        return None
