"""The looks of the charts, in light and in dark. The page's own colours are in page.css."""

from typing import Any

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
LIGHT = {"ink": "#1c2126", "muted": "#59636e", "grid": "#e6e8ea", "card": "#ffffff", "strong": "#135d80"}
DARK = {"ink": "#e7eaed", "muted": "#a4aeb8", "grid": "#30363d", "card": "#1a1e23", "strong": "#7cc3e6"}
LIGHT_LINES = ["#135d80", "#b8480f", "#5b4a9c", "#2c7a4b", "#a3336b", "#6b5a1e"]
DARK_LINES = ["#7cc3e6", "#f2a56f", "#b9a8f0", "#85cf9f", "#ef94bd", "#d8c479"]
ON_STRONG, ON_PALE = "on-strong", "on-pale"  # styles of text in the cells of a matrix


def theme(dark: bool = False) -> dict[str, Any]:
    """A configuration of Vega-Lite."""
    colour, lines = (DARK, DARK_LINES) if dark else (LIGHT, LIGHT_LINES)
    text = {"labelColor": colour["muted"], "titleColor": colour["muted"], "labelFontSize": 12, "titleFontSize": 12}
    quiet = {
        **text,
        "titleFontWeight": "normal",
        "domain": False,
        "ticks": False,
        "labelPadding": 6,
        "titlePadding": 10,
    }
    return {
        "background": colour["card"],
        "font": FONT,
        "axis": {**quiet, "gridColor": colour["grid"], "labelLimit": 130, "labelFlush": False, "labelSeparation": 6},
        "legend": {
            **text,
            "orient": "top",
            "title": None,
            "labelLimit": 200,
            "columnPadding": 16,
            "layout": {"top": {"direction": "vertical", "anchor": "start"}},  # one below the other: phones are narrow
        },
        "header": text,
        "title": {"anchor": "start", "color": colour["ink"], "fontSize": 15, "offset": 14},
        "view": {"stroke": None},
        "line": {"strokeWidth": 2, "strokeCap": "round", "strokeJoin": "round"},
        "rule": {"color": colour["muted"], "strokeDash": [2, 3]},
        "rect": {"stroke": colour["card"], "strokeWidth": 1},
        "bar": {"cornerRadius": 2, "color": colour["strong"]},
        "style": {
            ON_STRONG: {"color": colour["card"], "fontSize": 12},
            ON_PALE: {"color": colour["ink"], "fontSize": 12},
        },
        "range": {"category": lines, "heatmap": [colour["grid"], colour["strong"]]},
    }
