"""Pictures as files: PNG, SVG, PDF, or one page of HTML that holds picture and table."""

from __future__ import annotations

import io
import os
import warnings
from html import escape
from pathlib import Path
from typing import Annotated, Any

from ..argument_kinds import Range
from ..arguments import checked
from ..errors import InputError
from ..storage import atomic
from . import style
from .table import Table

StrPath = str | os.PathLike[str]
Dpi = Annotated[int, Range("from 20 to 1200", lambda x: 20 <= x <= 1200)]
# What matplotlib would write besides the picture, such as the date: the same picture is the same file.
UNSAID: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": dict.fromkeys(("Creator", "Date", "Format", "Type")),
    ".pdf": dict.fromkeys(("Creator", "Producer", "CreationDate")),
}
SUFFIXES = (*UNSAID, ".html")
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font-family: sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; }}
h1 {{ font-size: 1.4em; overflow-wrap: anywhere; }}
svg {{ max-width: 100%; height: auto; }}
table {{ border-collapse: collapse; margin-top: 1.5em; }}
th, td {{ border-bottom: 1px solid #ccc; padding: 0.3em 0.8em; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
</style>
</head>
<body>
<h1>{title}</h1>
{picture}
{table}
</body>
</html>
"""


@checked
def save(
    figure: Any, path: StrPath, *, dpi: Dpi = 150, table: Table | None = None, title: str = "numgpt"
) -> None:
    """Write a figure to a file, whole or not at all; the same figure gives the same bytes.

    Parameters
    ----------
    figure : matplotlib figure or axes
    path : path
        Its ending says the format: .png, .svg, .pdf, or .html for one page that needs no other file.
    dpi : int, default 150
        Of a PNG.
    table : Table, optional
        Of numgpt.plots.table: stands below the picture of a page.
    title : str, optional
        Of a page.

    Raises
    ------
    InputError
        For another ending, and where no file can be written.
    """
    suffix = suffix_of(path)
    whole = _figure(figure)
    format = "svg" if suffix == ".html" else suffix[1:]
    buffer = io.BytesIO()
    with style.styled(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # in the name of a run
        whole.savefig(buffer, format=format, dpi=dpi, metadata=UNSAID[f".{format}"])
    data = buffer.getvalue()
    if suffix == ".html":
        svg = data.decode()
        picture = svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)
        page = PAGE.format(title=escape(title), picture=picture, table=_html(table) if table else "")
        data = page.encode("utf-8", "replace")
    atomic.write_file(path, data)


@checked
def save_or_show(figure: Any, path: StrPath | None = None, *, dpi: Dpi = 150) -> None:
    """Write a figure to a file if one is named, as a script's --plot FILE does, or else open a window.

    Parameters
    ----------
    figure : matplotlib figure or axes
    path : path, optional
    dpi : int, default 150
    """
    whole = _figure(figure)
    if path is None:
        style.matplotlib("pyplot").show()
    else:
        save(whole, path, dpi=dpi)


def suffix_of(path: StrPath) -> str:
    """The ending of a picture's name; InputError for one that says no format."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        given = f"ends with {suffix}" if suffix else "has no ending"
        raise InputError(
            f"{path}: {given}, expected a name that ends with {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        )
    return suffix


def _figure(given: Any) -> Any:
    """The figure that something is or belongs to."""
    figure = getattr(getattr(given, "figure", None), "figure", None)  # of axes, of a subfigure, and its own
    if not isinstance(figure, style.matplotlib("figure").Figure):
        raise InputError(f"save: figure is {type(given).__name__}, expected a figure or axes of matplotlib")
    return figure


def _html(table: Table) -> str:
    """A table as HTML."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    rows = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in table.rows)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
