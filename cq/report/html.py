"""Pieces of a page of HTML that holds all it shows: it is read offline, on a phone and on paper."""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from cq.report.looks import png_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGEST = 8 * 2**20  # bytes of a page
STYLE = """
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:#1a1a1a;background:#fff;
 max-width:68rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;line-height:1.25;margin:.2rem 0}h2{font-size:1.15rem;margin:2rem 0 .5rem;
 border-bottom:1px solid #ccc;padding-bottom:.2rem}h3{font-size:1rem;margin:1rem 0 .3rem}p{margin:.4rem 0}
a{color:#0050a0}.dim{color:#555}.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.87rem}th,td{text-align:left;padding:.25rem .6rem;vertical-align:top;
 border-bottom:1px solid #ddd}th{background:#f4f4f4}td.n{text-align:right;font-variant-numeric:tabular-nums;
 white-space:nowrap}table.sort th{cursor:pointer}
figure{margin:.8rem 0}figure img{max-width:100%;height:auto}figcaption{font-size:.87rem;color:#444}
img.pixels{image-rendering:pixelated}
pre{background:#f4f4f4;padding:.6rem;white-space:pre-wrap;overflow-wrap:anywhere;font-size:.82rem}
.boxes{display:grid;grid-template-columns:repeat(auto-fit,minmax(14rem,1fr));gap:.8rem}
.box{border:1px solid #bbb;border-radius:4px;padding:.2rem .8rem .6rem}.sign{border-left:5px solid #d55e00;
 background:#fdf3ec;padding:.4rem .8rem;margin:.5rem 0}.gone{border-left:5px solid #999;background:#f6f6f6;
 padding:.4rem .8rem;overflow-wrap:anywhere}
@media print{body{max-width:none;padding:0;font-size:10pt}.wide{overflow:visible}h2{break-after:avoid}
 figure,.box,.sign{break-inside:avoid}details>*{display:block}}
""".replace("\n", "")
# Click on the head of a column sorts by it: numbers by value, all else by letters.
SORTING = """
document.querySelectorAll("table.sort th").forEach(th=>th.addEventListener("click",()=>{
const i=th.cellIndex,b=th.closest("table").tBodies[0],up=th.dataset.up!=="1";th.dataset.up=up?"1":"0";
const key=r=>{const t=r.cells[i].dataset.v??r.cells[i].textContent,n=parseFloat(t);return isNaN(n)?t:n};
[...b.rows].sort((x,y)=>{const p=key(x),q=key(y);return(up?1:-1)*(typeof p===typeof q?(p<q?-1:p>q?1:0):
typeof p==="number"?-1:1)}).forEach(r=>b.append(r))}));
""".replace("\n", "")


class Html(str):
    """Text that is HTML already; all other text is escaped where it enters a page."""


def html(value: object) -> Html:
    """A value as HTML."""
    return value if isinstance(value, Html) else Html(escape(str(value)))


def document(title: str, parts: Iterable[str], *, sortable: bool = False) -> str:
    """The whole page."""
    script = f"<script>{SORTING}</script>" if sortable else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{html(title)}</title><style>{STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + f"\n{script}</body></html>\n"
    )


def section(title: str, *parts: str) -> Html:
    """A heading with an anchor, and what stands below it."""
    anchor = re.sub(r"\W+", "-", title.lower()).strip("-")
    return Html(f'<section id="{anchor}"><h2>{html(title)}</h2>{"".join(html(part) for part in parts)}</section>')


def paragraph(text: object, kind: str = "") -> Html:
    """One paragraph. kind: a class of the style, such as dim or gone."""
    return Html(f'<p class="{kind}">{html(text)}</p>' if kind else f"<p>{html(text)}</p>")


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, sortable: bool = False) -> Html:
    """Cells are values, or a text and the number that it sorts by. sortable: by a click on a column's head."""
    heads = "".join(f"<th>{html(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    kind = ' class="sort"' if sortable else ""
    return Html(f'<div class="wide"><table{kind}><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>')


def _cell(value: object) -> str:
    """Numbers stand on the right."""
    if isinstance(value, tuple):
        text, number = value
        return f'<td class=n data-v="{number}">{html(text)}</td>'
    text = html(value)
    number = re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?( ?[%a-zA-Z]{0,3}| [\[±].*)?", str(value))
    return f"<td class=n>{text}</td>" if number else f"<td>{text}</td>"


def facts(pairs: Mapping[str, object]) -> Html:
    """A table of two columns without a head."""
    rows = "".join(f"<tr><th>{html(key)}</th><td>{html(value)}</td></tr>" for key, value in pairs.items())
    return Html(f'<div class="wide"><table><tbody>{rows}</tbody></table></div>')


def boxes(found: Mapping[str, Sequence[str]]) -> Html:
    """Boxes side by side, one below the other on a phone: title to lines."""
    inside = (
        f'<div class="box"><h3>{html(title)}</h3>{"".join(paragraph(line) for line in lines)}</div>'
        for title, lines in found.items()
    )
    return Html(f'<div class="boxes">{"".join(inside)}</div>')


def folded(title: str, inside: str) -> Html:
    """What opens on a click."""
    return Html(f"<details><summary>{html(title)}</summary>{html(inside)}</details>")


def code(text: str) -> Html:
    return Html(f"<pre>{html(text)}</pre>")


def link(target: str, text: object) -> Html:
    return Html(f'<a href="{escape(target, quote=True)}">{html(text)}</a>')


def drawn(figure: "Figure", caption: str) -> Html:
    """A figure of matplotlib in the page."""
    return picture(png_bytes(figure), caption)


def picture(png: bytes, caption: str, *, pixels: bool = False) -> Html:
    """A PNG in the page. pixels: shown with hard edges, where it is enlarged."""
    data = base64.b64encode(png).decode()
    kind = ' class="pixels"' if pixels else ""
    alt = escape(caption, quote=True)
    return Html(
        f'<figure><img{kind} alt="{alt}" src="data:image/png;base64,{data}"><figcaption>{html(caption)}</figcaption>'
        "</figure>"
    )
