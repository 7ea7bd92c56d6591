"""Pieces of a report's page: tables as HTML, downloads, figures as SVG, and data packed for the browser."""

from __future__ import annotations

import base64
import gzip
import html
import io
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from panmodal.insight.display import Display
from panmodal.insight.plots import INK, to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CELLS = 1500
"""Cells of a table that the page shows (25 to 200 rows); the download has all."""
HEAVIEST = 300_000
"""Letters of a figure as SVG; heavier ones become pictures."""
PLAIN = 20_000
"""Bytes of a table up to which its download is not compressed."""


def pack(data: bytes) -> str:
    """Compress (gzip, the same bytes for the same data) and encode as base64."""
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()


def pack_json(value: Any) -> str:
    """Pack a value as JSON; undefined numbers must be None."""
    return pack(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())


def json_in_html(value: Any) -> str:
    """Return JSON that can stand in a script element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def download(name: str, table: pd.DataFrame) -> tuple[str, str]:
    """Return name and address of a table as CSV within the page, numbers of eight digits.

    Large tables are compressed, which the page's script undoes.
    """
    data = table.to_csv(index=False, float_format="%.8g").encode()
    if len(data) <= PLAIN:
        return f"{name}.csv", "data:text/csv;charset=utf-8;base64," + base64.b64encode(data).decode()
    return f"{name}.csv.gz", "data:application/gzip;base64," + pack(data)


def cell(value: Any) -> tuple[str, str]:
    """Return a value as text and what it sorts by."""
    if value is None or value is pd.NA or (isinstance(value, float | np.floating) and not np.isfinite(value)):
        shown = "–" if value is None or value is pd.NA or np.isnan(value) else ("∞" if value > 0 else "-∞")
        return shown, ""
    if isinstance(value, bool | np.bool_):
        return ("yes" if value else "no"), ("1" if value else "0")
    if isinstance(value, float | np.floating):
        return f"{value:.4g}", f"{value:.10g}"
    if isinstance(value, list | tuple | set | np.ndarray):
        return ", ".join(map(str, value)), ""
    return str(value), ""


def table_html(table: pd.DataFrame, caption: str) -> str:
    """Return a table as HTML whose columns the page's script makes sortable; it says so where it does not have all rows."""
    most = max(25, min(200, MOST_CELLS // max(1, table.shape[1])))
    head, numeric = [], []
    for column in table.columns:
        numeric.append(pd.api.types.is_numeric_dtype(table[column]) or pd.api.types.is_bool_dtype(table[column]))
        head.append(
            f'<th scope="col"{"" if numeric[-1] else " class=text"}>{html.escape(str(column).replace("_", " "))}</th>'
        )
    lines = []
    for row in table.head(most).itertuples(index=False, name=None):
        cells = []
        for value, number in zip(row, numeric, strict=True):
            shown, key = cell(value)
            long = ' class="text long"' if len(shown) > 40 else ' class="text"'
            data = f' data-value="{key}"' if key and key != shown else ""
            cells.append(f"<td{'' if number else long}{data}>{html.escape(shown)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    note = (
        f'<p class="soft">The first {most} of {len(table)} rows; the download has all.</p>' if len(table) > most else ""
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(caption)}"><table class="sortable"><caption>'
        f"{html.escape(caption)}</caption><thead><tr>{''.join(head)}</tr></thead><tbody>\n"
        + "\n".join(lines)
        + f"\n</tbody></table></div>{note}"
    )


def draw(display: Display) -> Figure:
    """Draw a display in the page's ink: text and axes without a colour of their own take the page's."""
    import matplotlib as mpl

    names = ("text.color", "axes.labelcolor", "axes.titlecolor", "axes.edgecolor", "xtick.color", "ytick.color")
    inks: dict[Any, Any] = {**dict.fromkeys(names, INK), "axes.facecolor": "none", "legend.facecolor": "none"}
    with mpl.rc_context(inks):
        return display.plot()


def slim(svg: str) -> str:
    """Return an SVG without comments and with two decimals in its tags; the text it shows stays as it is."""
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    return re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), svg)


def figure_html(display: Display, anchor: str) -> str:
    """Return the figure of a display as an SVG within the page, or as a picture on white paper where that would be too heavy."""
    figure = draw(display)
    svg = slim(to_svg(figure, anchor))
    name = html.escape(display.title, quote=True)
    if len(svg) <= HEAVIEST:
        width = round(1.4 * 72 * figure.get_figwidth())
        return svg.replace('role="img"', f'role="img" aria-label="{name}" style="max-width:{width}px"', 1)
    return picture_html(display)


def picture_html(display: Display) -> str:
    """Return the figure of a display as a picture on white paper."""
    data = base64.b64encode(to_bytes(display, "png", dpi=120)).decode()
    return f'<img class="paper" alt="{html.escape(display.title, quote=True)}" src="data:image/png;base64,{data}">'


def to_bytes(display: Display, kind: str, dpi: int = 300) -> bytes:
    """Return the figure of a display as a file for papers: ``png``, ``svg`` or ``pdf``, black on white."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
    with mpl.rc_context({"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": display.name}):
        display.plot().savefig(buffer, format=kind, dpi=dpi, bbox_inches="tight", facecolor="white", metadata=metadata)
    return buffer.getvalue()
