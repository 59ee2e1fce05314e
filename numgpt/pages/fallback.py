"""A picture of a trace for readers that run no script: the norms of every value and of its gradient."""

from __future__ import annotations

import math
from html import escape
from typing import Any

ROW, WIDTH, LEFT, BAR = 18, 720, 230, 150  # pixels
MOST = 60  # rows
STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#333}.n{text-anchor:end;fill:#666}.h{font-weight:600}"
    ".v{fill:#3c78b4}.g{fill:#c8741e}"
)


def picture(data: dict[str, Any], title: str) -> str:
    """An SVG with a row for each op: its shape, and bars of both norms by their order of magnitude."""
    rows = [name for name, step in data["steps"].items() if step["cost"]] or data["names"]
    rows = rows[:: math.ceil(len(rows) / MOST)]
    tensors = [data["tensors"][name] for name in rows if name in data["tensors"]]
    height = 58 + ROW * len(rows)
    scales = {key: _scale([t[key] for t in tensors]) for key in ("norm", "grad_norm")}
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img"'
        f' aria-label="{escape(title, quote=True)}"><style>{STYLE}</style>',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text class="h" x="12" y="22">{escape(title)}</text>',
        f'<text x="{LEFT + 80}" y="42">‖value‖</text><text x="{LEFT + 320}" y="42">‖gradient‖</text>',
    ]
    for n, name in enumerate(rows):
        if name not in data["tensors"]:
            continue
        y = 58 + ROW * n
        tensor = data["tensors"][name]
        shape = "×".join(map(str, tensor["shape"])) or "()"
        lines.append(f'<text x="12" y="{y}">{escape(name)}</text>')
        lines.append(f'<text class="n" x="{LEFT + 60}" y="{y}">{shape}</text>')
        for key, kind, x in (("norm", "v", LEFT + 80), ("grad_norm", "g", LEFT + 320)):
            lines.append(_bar(tensor[key], scales[key], kind, x, y))
    return "\n".join([*lines, "</svg>"])


def _scale(norms: list[float | None]) -> tuple[float, float]:
    """The orders of magnitude of the smallest and the largest norm that can be drawn."""
    orders = [math.log10(n) for n in norms if n is not None and math.isfinite(n) and n > 0]
    low, high = (min(orders), max(orders)) if orders else (0.0, 1.0)
    return low - 0.1 * (high - low) - 0.1, high


def _bar(norm: float | None, scale: tuple[float, float], kind: str, x: int, y: int) -> str:
    if norm is None:
        return ""
    low, high = scale
    is_drawn = math.isfinite(norm) and norm > 0
    width = BAR * (math.log10(norm) - low) / (high - low) if is_drawn else 0.0
    bar = f'<rect class="{kind}" x="{x}" y="{y - 9}" width="{width:.1f}" height="10"/>'
    return f'{bar}<text x="{x + width + 6:.1f}" y="{y}">{norm:.4g}</text>'
