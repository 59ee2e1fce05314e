"""What numgpt verify finds, as a page that can be handed on: no script, nothing fetched."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .truth import Tensor
    from .verify import Line

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
       color: #222; background: #fff }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 2rem }
th, td { text-align: left; padding: .2rem .6rem; border-bottom: 1px solid #e4e4e4; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
.ok { color: #17692b } .bad { color: #b00020; font-weight: 700 } .skip { color: #777 }
.bar { height: .55rem; margin: .15rem 0; border-radius: .2rem }
.ours { background: #2b6cb0 } .theirs { background: #dd8a3c }
.key { display: inline-block; width: .8rem; height: .8rem; border-radius: .2rem; margin: 0 .3rem 0 1rem }
"""


HEAD = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width"><title>numgpt verify</title>'
    f"<style>{STYLE}</style></head><body><h1>numgpt against PyTorch</h1>"
)
UNITS = (
    "<p>float64: the largest difference, relative to the largest entry of its array. float32: the root mean"
    " square difference, as a share of what rounding explains, which follows from the unit of float32 and the"
    " lengths of the sums.</p>"
)


def versions() -> str:
    """The machine and the versions that a figure belongs to, as a line."""
    from importlib.metadata import PackageNotFoundError, version

    parts = [f"{platform.machine()}, Python {platform.python_version()}"]
    for package in ("numgpt", "numpy", "numba", "torch", "transformers"):
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            parts.append(f"no {package}")
    return ", ".join(parts)


def page(lines: Sequence[Line], tensors: Sequence[Tensor], engine: str) -> str:
    """The HTML of all Lines, and of the Tensors with a bar for each side's error."""
    failed = sum(not line.holds for line in lines)
    if failed:
        verdict = f'<p class="bad">{failed} of {len(lines)} comparisons fail.</p>'
    else:
        verdict = f'<p class="ok">All {len(lines)} comparisons hold.</p>'
    columns = (
        '<tr><th>what</th><th>compared</th><th>dtype</th><th class="n">difference</th>'
        '<th class="n">limit</th><th>verdict</th></tr>'
    )
    table = f"<table>{columns}{''.join(map(_line, lines))}</table>"
    machine = f"<p>{escape(versions())}; engine {escape(engine)}.</p>"
    truth = _truth(tensors) if tensors else ""
    return f"{HEAD}{machine}{verdict}{UNITS}{table}{truth}</body></html>\n"


def _line(line: Line) -> str:
    """A row of the table of comparisons."""
    if line.limit is None:
        numbers, verdict = ("", ""), '<td class="skip">skipped</td>'
    else:
        numbers = (f"{line.difference:.1e}", f"{line.limit:g}")
        verdict = '<td class="ok">ok</td>' if line.holds else '<td class="bad">FAILS</td>'
    cells = "".join(f'<td class="n">{n}</td>' for n in numbers)
    what = escape(line.what + (f" ({line.detail})" if line.detail else ""))
    return f"<tr><td>{escape(line.name)}</td><td>{what}</td><td>{line.dtype}</td>{cells}{verdict}</tr>"


def _truth(tensors: Sequence[Tensor]) -> str:
    """The errors of both sides, with a bar each."""
    most = max(max(x.ours, x.theirs) for x in tensors) or 1.0

    def bar(side: str, error: float) -> str:
        return f'<div class="bar {side}" style="width:{100 * error / most:.2f}%"></div>'

    rows = "".join(
        f'<tr><td>{x.stage}</td><td>{escape(x.name)}</td><td class="n">{x.ours:.3f}</td>'
        f'<td class="n">{x.theirs:.3f}</td>'
        f'<td style="width:45%">{bar("ours", x.ours)}{bar("theirs", x.theirs)}</td></tr>'
        for x in tensors
    )
    return (
        "<h2>Who is closer to the truth</h2><p>The error of each tensor of a float32 training step against"
        " long double, root mean square, in ulps (2⁻²³ of the tensor's root mean square)."
        '<span class="key ours"></span>numgpt<span class="key theirs"></span>PyTorch</p>'
        '<table><tr><th></th><th>tensor</th><th class="n">numgpt</th><th class="n">PyTorch</th><th></th></tr>'
        f"{rows}</table>"
    )
