"""numgpt verify's findings as a page of its own, to be handed on: no script, nothing fetched."""

import platform
from html import escape

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222; background: #fff }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 2rem }
th, td { text-align: left; padding: .2rem .6rem; border-bottom: 1px solid #e4e4e4; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
.ok { color: #17692b } .bad { color: #b00020; font-weight: 700 } .skip { color: #777 }
.bar { height: .55rem; margin: .15rem 0; border-radius: .2rem } .ours { background: #2b6cb0 } .theirs { background: #dd8a3c }
.key { display: inline-block; width: .8rem; height: .8rem; border-radius: .2rem; margin: 0 .3rem 0 1rem }
"""


def versions():
    """The machine and the versions that a figure belongs to, as a line."""
    from importlib.metadata import PackageNotFoundError, version

    found = [f"{platform.machine()}, Python {platform.python_version()}"]
    for package in ("numgpt", "numpy", "numba", "torch", "transformers"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


def page(lines, tensors, engine):
    """The HTML of all Lines, and of the Tensors with a bar for each side's error."""
    failed = sum(not line.holds for line in lines)
    verdict = (
        f'<p class="bad">{failed} of {len(lines)} comparisons fail.</p>'
        if failed
        else f'<p class="ok">All {len(lines)} comparisons hold.</p>'
    )
    rows = "".join(_line(line) for line in lines)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport"'
        f' content="width=device-width"><title>numgpt verify</title>'
        f"<style>{STYLE}</style></head><body><h1>numgpt against PyTorch</h1><p>{escape(versions())}; engine"
        f" {escape(engine)}.</p>{verdict}"
        "<p>float64: the largest difference, relative to the largest entry of its array. float32: the root"
        " mean square difference, as a share of what "
        "rounding explains, which follows from the unit of float32 and the lengths of the sums.</p>"
        '<table><tr><th>what</th><th>compared</th><th>dtype</th><th class="n">difference</th><th'
        f' class="n">limit</th><th>verdict</th></tr>{rows}</table>'
        f"{_truth(tensors) if tensors else ''}</body></html>\n"
    )


def _line(line):
    verdict = (
        '<td class="skip">skipped</td>'
        if line.limit is None
        else '<td class="ok">ok</td>'
        if line.holds
        else '<td class="bad">FAILS</td>'
    )
    numbers = ("", "") if line.limit is None else (f"{line.difference:.1e}", f"{line.limit:g}")
    cells = "".join(f'<td class="n">{n}</td>' for n in numbers)
    what = escape(line.what + (f" ({line.detail})" if line.detail else ""))
    return f"<tr><td>{escape(line.name)}</td><td>{what}</td><td>{line.dtype}</td>{cells}{verdict}</tr>"


def _truth(tensors):
    most = max(max(x.ours, x.theirs) for x in tensors) or 1.0

    def bars(x):
        return "".join(
            f'<div class="bar {side}" style="width:{100 * error / most:.2f}%"></div>'
            for side, error in (("ours", x.ours), ("theirs", x.theirs))
        )

    rows = "".join(
        f'<tr><td>{x.stage}</td><td>{escape(x.name)}</td><td class="n">{x.ours:.3f}</td><td'
        f' class="n">{x.theirs:.3f}</td><td style="width:45%">{bars(x)}</td></tr>'
        for x in tensors
    )
    return (
        "<h2>Who is closer to the truth</h2><p>The error of each tensor of a float32 training step against"
        " long double, root mean square, in ulps (2⁻²³ of the tensor's root mean "
        'square).<span class="key ours"></span>numgpt<span class="key theirs"></span>PyTorch</p>'
        '<table><tr><th></th><th>tensor</th><th class="n">numgpt</th><th'
        f' class="n">PyTorch</th><th></th></tr>{rows}</table>'
    )
