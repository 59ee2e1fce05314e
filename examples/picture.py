"""How an example shows its picture: in the file that --plot names, or below the cell of a notebook."""

import argparse
import contextlib
import io
import sys

from numgpt import InputError, plots
from numgpt.plots import files, style


def script(description):
    """A function show(draw, size) for the script with that docstring; the command line is read now.

    show has draw(figure) draw into a figure of matplotlib, and does nothing where nobody asked for a picture.
    """
    if is_notebook():
        return below_the_cell
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_flag(parser)
    return to(parser.parse_args().plot, title=description.partition("\n")[0])


def add_flag(parser):
    """The flag --plot FILE."""
    endings = ", ".join(files.SUFFIXES)
    parser.add_argument(
        "--plot", metavar="FILE", help=f"draw to a file whose name ends with one of {endings}"
    )


def to(path, title="numgpt"):
    """A function show(draw, size) that draws to a file, or does nothing where path is None.

    What is wrong with the file's name ends the script here, before anything is computed.

    title: of a page of HTML.
    """
    if path is None:
        return lambda draw, size=None: None
    with said_in_one_line():
        files.suffix_of(path)
        style.matplotlib()

    def show(draw, size=(7.2, 4.2)):
        """Draw to the file."""
        with said_in_one_line():
            plots.save(drawn(draw, size), path, title=title)
        print(f"the picture is {path}")

    return show


def is_notebook():
    """Whether this runs in a kernel of Jupyter, whose command line is not the script's."""
    return "IPython" in sys.modules and hasattr(sys.modules["IPython"].get_ipython(), "kernel")


def below_the_cell(draw, size=(7.2, 4.2)):
    """The picture as the output of a cell."""
    from IPython.display import Image, display

    buffer = io.BytesIO()
    with plots.styled():
        drawn(draw, size).savefig(buffer, format="png", dpi=80)
    display(Image(buffer.getvalue()))


def drawn(draw, size):
    """A figure of that size which draw has filled, in the look of numgpt's pictures."""
    with plots.styled():
        figure = style.matplotlib("figure").Figure(figsize=size)
        draw(figure)
    return figure


@contextlib.contextmanager
def said_in_one_line():
    """What is wrong is one line, and status 2."""
    try:
        yield
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
