"""Where matplotlib is not installed: one line that names the extra, before anything is computed."""

import sys

import pytest

from numgpt import InputError, plots
from numgpt.__main__ import main

RUN = plots.Run("mine", [{"step": 1, "loss": 2.0}])


@pytest.fixture(autouse=True)
def no_matplotlib(monkeypatch):
    """Whoever imports it is told that it is not there."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)

    class Nowhere:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name.partition(".")[0] == "matplotlib":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Nowhere, *sys.meta_path])


@pytest.mark.parametrize("draw", [plots.loss, plots.curves, plots.gradient_norm])
def test_a_picture_names_the_extra_to_install(draw):
    with pytest.raises(InputError, match=r"matplotlib is not installed, .*: pip install 'numgpt\[plot\]'"):
        draw(RUN)


def test_the_command_says_so_in_a_line_and_the_table_needs_no_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plot", "runs/1"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "numgpt[plot]" in error
    assert "mine" in repr(plots.table(RUN))
