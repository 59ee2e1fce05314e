"""numgpt doctor, Ctrl-C before a command runs, and values that argparse takes for its own mark."""

import argparse
import os
import signal
import subprocess
import sys

import pytest

import numgpt
from numgpt import InputError, engine
from numgpt.__main__ import main
from numgpt.commands.table import parser

ROWS = ["numgpt", "python", "system", "cpu", "memory", "engine", "blas", "packages", "settings"]


def test_the_doctor_prints_a_row_for_each_fact(capsys, monkeypatch):
    monkeypatch.setenv("NUMGPT_SOMETHING", "some value")
    assert main(["doctor"]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert [name for name in rows if name in ROWS] == ROWS
    assert rows["engine"] == engine.current() and numgpt.__version__ in rows["numgpt"]
    assert "numpy" in rows["packages"] and "NUMGPT_SOMETHING=some value" in rows["settings"]


def test_the_doctor_knows_where_kernels_are_kept(capsys):
    pytest.importorskip("numba", reason="Numba is not installed")
    from numgpt.engine import kernel_cache

    before = engine.current()
    try:
        assert main(["doctor", "--engine", "numba"]) == 0
    finally:
        numgpt.use(before)
    output = capsys.readouterr().out
    assert kernel_cache.FOLDER in output and "for kernels" in output


def test_the_doctor_tells_why_there_is_no_engine(capsys, monkeypatch):
    monkeypatch.setattr(engine.choice, "_engine", None)
    monkeypatch.setenv("NUMGPT_ENGINE", "gpu")
    assert main(["doctor"]) == 0
    assert "none: engine: 'gpu' is unknown" in capsys.readouterr().out


def commands(whole):
    (actions,) = (a for a in whole._actions if isinstance(a, argparse._SubParsersAction))
    return actions.choices


FLAGS = [
    (name, action)
    for name, command in commands(parser()).items()
    for action in command._actions
    if action.option_strings and action.nargs in (None, "+", "*", "?")
]


@pytest.mark.parametrize("name, action", FLAGS, ids=lambda x: x if isinstance(x, str) else x.dest)
def test_two_dashes_are_a_value_like_any_other(name, action):
    """Python 3.11 drops them, and gives an empty list."""
    command = commands(parser())[name]
    try:
        values, _ = command.parse_known_args([f"{action.option_strings[-1]}=--"])
    except InputError as error:
        assert "'--'" in str(error) or "required" in str(error)
    else:
        assert getattr(values, action.dest) in ("--", ["--"])


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
@pytest.mark.parametrize("imported", ["numgpt.commands.table", "numpy", "numgpt.architecture"])
def test_an_interrupt_while_modules_are_imported_is_a_line(imported):
    code = f"""
import os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "{imported}":
            os.kill(os.getpid(), {int(signal.SIGINT)})
sys.meta_path.insert(0, Finder())
from numgpt.__main__ import main
sys.exit(main(["--help"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\nnumgpt: interrupted\n")
