"""Writes that are whole or not at all: made beside their place, flushed to disk and renamed."""

import contextlib
import json
import os
import shutil
from pathlib import Path

NEW, OLD = ".numgpt-new", ".numgpt-old"  # endings of what is being written, and of what is being replaced


def replace_folder(folder, write):
    """Put a folder that write(path) fills in the place of folder, so that a whole one is there at every
    moment but one.

    In that moment, between two renames, the old one is beside it and settle() puts it back.
    """
    folder = Path(os.path.realpath(folder))  # a link's target is replaced, not the link
    new, old = beside(folder, NEW), beside(folder, OLD)
    settle(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir()
        write(new)
        _flush(new)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if folder.exists():
        os.rename(folder, old)
    os.rename(new, folder)
    _flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def settle(folder):
    """Undo what a killed replace_folder left: put the old folder back, or remove it where the new one is in
    place.
    """
    old = beside(Path(folder), OLD)
    if old.exists():
        if Path(folder).exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(old, folder)


def write_file(path, data):
    """Write bytes to a file beside its place, flush and rename."""
    new = beside(Path(path), NEW)
    try:
        with open(new, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    _flush(Path(path).parent)


def write_json(path, content):
    """Write a JSON file, whole or not at all."""
    write_file(path, (json.dumps(content, indent=1) + "\n").encode())


def beside(path, ending):
    """The hidden name beside a path that what is being written, or replaced, has."""
    path = Path(os.path.abspath(path))
    return path.with_name(f".{path.name}{ending}") if path.name else path / ending


def _flush(folder):
    """Make a folder's entries last through a power cut; Windows has no such call."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
