"""One HTML file that needs nothing else: text, tables and figures in, a document out. Everything given is text, never markup."""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from workbench.core.text import upright
from workbench.figures import style, words

STYLE = """
:root{color-scheme:light;font:16px/1.5 system-ui,sans-serif;color:#1b2330;background:#fff}
body{max-width:1080px;margin:0 auto;padding:2rem 1.2rem 4rem}
h1{font-size:1.7rem;margin:.2rem 0}h2{font-size:1.25rem;margin:2.2rem 0 .4rem;padding-top:1rem;border-top:1px solid #d5dbe6}
h3{font-size:1.02rem;margin:1.4rem 0 .3rem}p{margin:.4rem 0}.faint{color:#566073;font-size:.9rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.88rem;margin:.6rem 0}
th,td{padding:.3rem .65rem;text-align:left;border-bottom:1px solid #d5dbe6;vertical-align:top}
th{background:#f3f5f9;white-space:nowrap}td.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
figure{margin:.8rem 0}figcaption{color:#566073;font-size:.85rem}
pre{background:#f3f5f9;padding:.8rem;overflow-x:auto;font-size:.85rem;border-radius:4px}
.note{border-left:4px solid #e08a00;background:#fdf6ea;padding:.5rem .8rem;margin:.5rem 0}
summary{cursor:pointer;font-weight:600;margin:.4rem 0}
"""
UNFOLD = (
    "document.addEventListener('toggle',e=>e.target.querySelectorAll('.js-plotly-plot').forEach(p=>Plotly.Plots.resize(p)),true)"
)
"""A figure that was drawn while folded away has no size yet."""
CONFIG = {"displayModeBar": False, "responsive": True}


def document(title: str, parts: Iterable[str]) -> str:
    """The whole file; plotly.js stands in it once.

    Args:
        title: of the page.
        parts: what the functions below return, in order.
    """
    head = f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>{_text(title)}</title>"
    script = f"<script>{get_plotlyjs()}</script><script>{UNFOLD}</script>"
    return f"<!doctype html><html lang='en'><head>{head}<style>{STYLE}</style>{script}</head><body>{''.join(parts)}</body></html>"


def heading(text: str, level: int = 2) -> str:
    """A heading."""
    return f"<h{level}>{_text(text)}</h{level}>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; `kind` is empty, `faint` or `note`."""
    return f"<p class='{kind}'>{_text(text)}</p>" if text else ""


def listing(texts: Iterable[str]) -> str:
    """A list of sentences."""
    return f"<ul>{''.join(f'<li>{_text(text)}</li>' for text in texts)}</ul>"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the columns of the first one; numbers to the right, a dash for nothing."""
    if not rows:
        return ""
    names = list(rows[0])
    head = "".join(f"<th scope='col'>{_text(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(_cell(row.get(name)) for name in names)}</tr>" for row in rows)
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def figure(drawn: go.Figure) -> str:
    """A figure with its description below it."""
    described = style.alt(drawn)
    font = go.Figure(drawn).update_layout(font={"color": "#1b2330", "family": "system-ui, sans-serif"}, template="none")
    plot = font.to_html(full_html=False, include_plotlyjs=False, config=CONFIG)
    label = html.escape(described, quote=True)
    return f"<figure role='group' aria-label=\"{label}\">{plot}<figcaption>{_text(described)}</figcaption></figure>"


def code(text: str) -> str:
    """Text as it stands."""
    return f"<pre>{_text(text)}</pre>"


def folded(title: str, parts: Iterable[str]) -> str:
    """Parts that are opened by a click."""
    return f"<details><summary>{_text(title)}</summary>{''.join(parts)}</details>"


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"<td>{_text(words.DASH if words.missing(value) else value)}</td>"
    said = words.DASH if words.missing(value) else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return f"<td class='number'>{said}</td>"


def _text(value: Any) -> str:
    return html.escape(upright(str(value)), quote=True)
