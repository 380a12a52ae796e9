"""Just enough SVG for the pictures of the pages: a card that is readable on a light and on a dark page."""

from html import escape

# Each class of shapes has a colour for a light and one for a dark page; text takes `ink` or, beside it, `soft`.
STYLE = """
  .card { fill: #ffffff; stroke: #d5dae1 } .ink { fill: #1f2933 } .soft { fill: #52606d }
  .a { fill: #3f51b5 } .b { fill: #d9822b } .c { fill: #2f8f6b } .pale { fill: #e4e7eb }
  .line { stroke: #7b8794; fill: none } .line-a { stroke: #3f51b5; fill: none } .line-b { stroke: #d9822b; fill: none }
  text { font: 14px system-ui, sans-serif } .small { font-size: 12px } .bold { font-weight: 600 } .on { fill: #ffffff }
  .end { text-anchor: end } .middle { text-anchor: middle }
  @media (prefers-color-scheme: dark) {
    .card { fill: #1e2530; stroke: #3b4656 } .ink { fill: #e6eaf0 } .soft { fill: #aab4c2 }
    .a { fill: #8c9eff } .b { fill: #f0a861 } .c { fill: #5fc9a0 } .pale { fill: #364152 } .on { fill: #10151c }
    .line { stroke: #8894a5 } .line-a { stroke: #8c9eff } .line-b { stroke: #f0a861 }
  }"""


class Picture:
    """A drawing of width x height units, with a sentence for those who can't see it."""

    def __init__(self, width: int, height: int, described: str) -> None:
        self.size, self.described = (width, height), described
        self._shapes: list[str] = []

    def rect(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """A bar or a box."""
        self._shapes.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="3" class="{kind}"/>'
        )

    def text(self, x: float, y: float, text: str, kind: str = "ink") -> None:
        """A line of text that begins at x, or ends there (`end`), or has its middle there (`middle`)."""
        self._shapes.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(text)}</text>')

    def path(self, points: list[tuple[float, float]], kind: str = "line", arrow: bool = False) -> None:
        """A line through points, with an arrow's head at its end if asked for."""
        way = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        head = ' marker-end="url(#head)"' if arrow else ""
        self._shapes.append(f'<path d="M{way}" class="{kind}" stroke-width="2"{head}/>')

    def __str__(self) -> str:
        width, height = self.size
        head = (
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
            '<path d="M0 0 L8 4 L0 8 z" class="soft"/></marker></defs>'
        )
        card = f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8" class="card"/>'
        body = "\n".join(
            [f"<title>{escape(self.described)}</title>", f"<style>{STYLE}\n</style>", head, card, *self._shapes]
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img">\n{body}\n</svg>\n'
        )
