"""A bar chart as SVG, made of text: no library, legible on light and on dark pages.

text = chart("Million deliveries a second", "600 bytes ...", {"10 receivers": [Bar(...)]})
"""

from __future__ import annotations

from typing import NamedTuple
from xml.sax.saxutils import escape

__all__ = ["Bar", "chart"]

WIDTH, LEFT, RIGHT = 760, 150, 70  # pixels; names to the left of the bars, values to the right
BAR, GAP, TOP, GROUP = 18, 6, 62, 34

# Greys that have contrast on white and on black; a viewer that says which it is gets better ones.
STYLE = """
    text { font: 13px system-ui, sans-serif; fill: #6e7781 }
    .title { font-size: 16px; font-weight: 600 }
    .ours { fill: #2f81f7 } .peer { fill: #8c959f }
    .strong { font-weight: 600 }
    line { stroke: #57606a; stroke-width: 1.5 }
    @media (prefers-color-scheme: light) { text { fill: #24292f } }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 } .peer { fill: #6e7681 } line { stroke: #c9d1d9 } }
"""


class Bar(NamedTuple):
    """One bar, and the line over it from the least to the most."""

    name: str
    median: float
    low: float
    high: float
    is_ours: bool


def chart(title: str, subtitle: str, groups: dict[str, list[Bar]]) -> str:
    """The text of an SVG file; its <desc> says every value, for who cannot see it."""
    most = max(bar.high for bars in groups.values() for bar in bars)
    scale = (WIDTH - LEFT - RIGHT) / most
    said = "; ".join(
        f"{name}: " + ", ".join(f"{bar.name} {bar.median:.2f}" for bar in bars)
        for name, bars in groups.items()
    )
    y, drawn = TOP, []
    for group, bars in groups.items():
        drawn.append(f'<text class="strong" x="16" y="{y + 14}">{escape(group)}</text>')
        y += 24
        for bar in bars:
            kind, middle = ("ours" if bar.is_ours else "peer"), y + BAR / 2
            weight = ' class="strong"' if bar.is_ours else ""
            low, high = (LEFT + value * scale for value in (bar.low, bar.high))
            place = f'x="{LEFT}" y="{y}" width="{bar.median * scale:.1f}" height="{BAR}"'
            name, value = escape(bar.name), f"{bar.median:.2f}"
            drawn += [
                f'<text{weight} x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{name}</text>',
                f'<rect class="{kind}" {place} rx="2"/>',
                f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>',
                f'<text{weight} x="{high + 8:.1f}" y="{y + 14}">{value}</text>',
            ]
            y += BAR + GAP
        y += GROUP - 24
    body = "\n  ".join(drawn)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" \
height="{y}" role="img" aria-labelledby="title desc">
  <title id="title">{escape(title)}</title>
  <desc id="desc">{escape(subtitle)}. {escape(said)}.</desc>
  <style>{STYLE}  </style>
  <text class="title" x="16" y="24">{escape(title)}</text>
  <text x="16" y="44">{escape(subtitle)}</text>
  {body}
</svg>
"""
