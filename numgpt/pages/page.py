"""Page: the HTML of a page, its file, and how a notebook shows it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from ..arguments import checked
from ..storage.atomic import write_file
from ..storage.files import read_json
from . import fallback, packing

StrPath = str | os.PathLike[str]
WEB = Path(__file__).parent / "web"
# The order in which they are put together: each may use what those before it give to the object N.
SCRIPTS = (
    "dom.js",
    "arrays.js",
    "anew.js",
    "formula.js",
    "dependence.js",
    "letters.js",
    "narrow.js",
    "numpy.js",
    "cell.js",
    "state.js",
    "charts.js",
    "rail.js",
    "flow.js",
    "tensor.js",
    "detail.js",
    "check.js",
    "tokens.js",
    "tied.js",
    "export.js",
    "keys.js",
    "ops.js",
    "engine.js",
    "lab.js",
    "what_if.js",
    "outcome.js",
    "prompt.js",
    "attribution.js",
    "beside.js",
    "adamw.js",
    "main.js",
)
HEIGHT = 820  # pixels of the frame in a notebook


@dataclass(frozen=True, repr=False)
class Page:
    """A page that needs no other file. ``numgpt.pages.explore(trace)`` makes one, attention and patching too.

    Attributes
    ----------
    html : str
    title : str
    """

    html: str
    title: str
    picture: str = ""  # an SVG, for readers that run no script

    @property
    def size(self) -> int:
        """Bytes of its file."""
        return len(self.html.encode())

    @checked
    def save(self, path: StrPath) -> None:
        """Write the page, whole or not at all.

        Parameters
        ----------
        path : path
        """
        write_file(path, self.html.encode())

    def _repr_html_(self) -> str:
        """As a notebook shows it: in a frame that can reach nothing outside of itself."""
        name = escape(self.title, quote=True)
        return (
            f'<iframe title="{name}" sandbox="allow-scripts allow-downloads" loading="lazy"'
            f' style="width:100%;height:{HEIGHT}px;border:1px solid #8884;border-radius:8px"'
            f' srcdoc="{escape(self.html, quote=True)}"></iframe>'
        )

    def _repr_svg_(self) -> str | None:
        """What is shown where no script runs."""
        return self.picture or None

    def __repr__(self) -> str:
        return f"<Page {self.title!r}, {self.size / 1e6:.1f} MB: save(path) writes it>"


class Parts(NamedTuple):
    """The files in web/ of which a kind of page is made: a template, scripts, styles, and its texts."""

    template: str
    scripts: tuple[str, ...]
    styles: tuple[str, ...]
    strings: str


EXPLORER = Parts("page.html", SCRIPTS, ("page.css", "lab.css"), "strings.en.json")


def page_of(data: dict[str, Any], title: str) -> Page:
    """The explorer that shows the data of packing."""
    return assembled(EXPLORER, data, title, fallback.picture(data, title))


def assembled(parts: Parts, data: dict[str, Any], title: str, picture: str = "") -> Page:
    """A page of one file: the template with everything else put into its places."""
    contents = {
        "title": escape(title),
        "style": "\n".join((WEB / name).read_text("utf-8") for name in parts.styles),
        "strings": packing.as_json(read_json(WEB / parts.strings)),
        "data": packing.as_json(data),
        "script": script(parts.scripts),
    }
    html = (WEB / parts.template).read_text("utf-8")
    for name, text in contents.items():
        before, mark, after = html.partition(f"<!-- {name} -->")
        assert mark, f"{parts.template} has no place for {name}"
        html = before + text + after
    return Page(html.encode("utf-8", "replace").decode(), title, picture)


def script(names: Sequence[str]) -> str:
    """Scripts as one, each in a block of its own; N is what they share."""
    files = (WEB / name for name in names)
    blocks = [f"{{ // {path.name}\n{path.read_text('utf-8')}\n}}" for path in files]
    joined = "\n".join(blocks)
    return f'(() => {{\n"use strict";\nconst N = (window.N = {{}});\n{joined}\n}})();'
