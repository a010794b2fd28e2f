"""Small pieces of HTML; whatever comes from a file is escaped here.

So is what goes into Markdown and LaTeX.
"""

import base64
import html
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote

import numpy as np

DASH = "–"
# What means something else in Markdown; an underscore within a word does not.
MARKS = re.compile(r"[\\`*\[\]<>|~]|(?<!\w)_|_(?!\w)")
# What means something else in LaTeX; it also joins two hyphens.
LATEX = {
    **{mark: f"\\{mark}" for mark in "#$%&_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    '"': r"\textquotedbl{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # at the beginning of a row it would be an argument of \\
    "*": "{*}",
    "±": r"$\pm$",
    DASH: r"\textendash{}",
}
PANEL = 320  # longest side of an embedded image, pixels
STYLE = """
:root{--ink:#1f2a37;--soft:#52606d;--line:#e1e6ec;--ground:#f7f8fa;--blue:#0b5cad}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
 font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:26px;margin:0 0 6px;overflow-wrap:anywhere}
h2{font-size:19px;margin:0 0 4px}
h3{font-size:15px;margin:14px 0 4px;overflow-wrap:anywhere}
p{margin:6px 0 12px;max-width:85ch}
a{color:var(--blue)}
section,.sample{background:#fff;border:1px solid var(--line);border-radius:10px;
 padding:18px 20px;margin:18px 0}
.sample h3{margin:0}
.sample{padding:12px 14px;margin:14px 0;background:var(--ground)}
.lead{font-size:17px}.soft{color:var(--soft);font-size:13px}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin:12px 0;font-size:14px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;
 margin:18px 0}
.card{background:#fff;border:1px solid var(--line);border-radius:10px;padding:12px 16px}
.card b{display:block;font-size:26px;font-variant-numeric:tabular-nums}
.loud,.gaps{border-left:5px solid #d55e00;background:#fff4ec;border-radius:6px;
 padding:10px 16px;margin:14px 0}
.gaps{border-color:#b58900;background:#fffaea}.gaps ul{margin:4px 0;padding-left:20px}
.gap{color:#7a4b00;background:#fffaea;border-radius:6px;padding:6px 10px;font-size:14px}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{text-align:left;padding:6px 12px 6px 0;border-bottom:1px solid var(--line);
 vertical-align:top;overflow-wrap:anywhere}
thead th{color:var(--soft);font-weight:600;min-width:5em;
 vertical-align:bottom;overflow-wrap:normal}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums;
 padding-right:18px}td.number{white-space:nowrap}
tbody th{font-weight:600;white-space:nowrap}
.wide{margin:10px 0}
.charts,.panels{display:grid;gap:12px;margin:10px 0}
.charts{grid-template-columns:repeat(auto-fit,minmax(300px,1fr))}
.panels{grid-template-columns:repeat(auto-fill,minmax(164px,1fr))}
figure{margin:0}figure img{width:100%;height:auto;display:block;border-radius:5px}
figcaption{font-size:12.5px;color:var(--soft);margin:4px 0 2px;overflow-wrap:anywhere}
.bar img{max-width:440px}
.tag{display:inline-block;border-radius:20px;padding:1px 10px;font-size:12.5px;
 color:#fff;background:#0072b2}.tag.bad{background:#b84a00}
.tag.plain{background:#e6eaf0;color:var(--ink)}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(160px,1fr));gap:8px 20px;
 margin:8px 0}dt{color:var(--soft);font-size:12.5px}
dd{margin:0;overflow-wrap:anywhere}
details{margin:8px 0}summary{cursor:pointer;color:var(--blue)}
pre{overflow:auto;max-height:420px;background:var(--ground);padding:10px;font-size:12.5px}
@media(max-width:640px){tbody th{white-space:normal}}
@media print{body{background:#fff}section{break-inside:avoid}}
"""


def text(value: object) -> str:
    """Returns a value as HTML text, safe in content and in quoted attributes."""
    plain = str(value).encode("utf-8", "replace").decode("utf-8")
    return html.escape(plain, quote=True)


def markdown(value: object) -> str:
    """Returns a value as text of a line of Markdown, also within a table."""
    plain = str(value).encode("utf-8", "replace").decode("utf-8")
    return MARKS.sub(r"\\\g<0>", " ".join(plain.split()))


def latex(value: object) -> str:
    """Returns a value as text of a line of LaTeX, also within a table."""
    plain = str(value).encode("utf-8", "replace").decode("utf-8")
    line = " ".join("".join(x if x.isprintable() else " " for x in plain).split())
    escaped = "".join(LATEX.get(letter, letter) for letter in line)
    return re.sub("-(?=-)", "-{}", escaped)


def link(name: str, *folders: str) -> str:
    """Returns a relative link to a file, percent-encoded byte by byte."""
    return text(
        "/".join(quote(os.fsencode(part), safe="") for part in (*folders, name))
    )


def document(title: str, *body: str) -> str:
    """Returns a self-contained page of some parts; empty ones are left out."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style></head>\n"
        "<body><main>\n" + "\n".join(part for part in body if part) + "\n"
        "</main></body></html>\n"
    )


def section(anchor: str, title: str, *body: str) -> str:
    """Returns a section with a heading."""
    inner = "\n".join(part for part in body if part)
    return f'<section id="{anchor}">\n<h2>{text(title)}</h2>\n{inner}\n</section>'


def paragraph(words: str, kind: str = "") -> str:
    """Returns an escaped paragraph, of a class if one is given."""
    return f'<p class="{kind}">{text(words)}</p>' if kind else f"<p>{text(words)}</p>"


def gap(words: str) -> str:
    """Returns the sentence that stands where something is missing."""
    return paragraph(words, "gap")


def table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()
) -> str:
    """Returns a table of plain strings; the first column names the row.

    Args:
        heads: column titles.
        rows: cells, escaped here.
        numbers: columns that are set flush right.
    """

    def cell(tag: str, place: int, words: str) -> str:
        kind = ' class="number"' if place in numbers else ""
        return f"<{tag}{kind}>{text(words)}</{tag}>"

    head = "".join(cell("th", i, words) for i, words in enumerate(heads))
    body = "\n".join(
        "<tr>"
        + "".join(cell("td" if i else "th", i, words) for i, words in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def definitions(pairs: Mapping[str, object]) -> str:
    """Returns a grid of names, each with what is said of it."""
    inner = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(words)}</dd></div>"
        for name, words in pairs.items()
    )
    return f"<dl>{inner}</dl>"


def figure(source: str, caption: str, kind: str = "", after: str = "") -> str:
    """Returns a figure: an image (a data URI), its caption and HTML after that."""
    named = f' class="{kind}"' if kind else ""
    return (
        f'<figure{named}><img src="{source}" alt="{text(caption)}">'
        f"<figcaption>{text(caption)}{after}</figcaption></figure>"
    )


def png(data: bytes) -> str:
    """Returns the data URI of a PNG."""
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def jpeg(image: np.ndarray) -> str:
    """Returns the data URI of a uint8 [H,W,3] image as JPEG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def number(value: object, digits: int = 4) -> str:
    """Returns a number with some decimals, or a dash for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return DASH
    return f"{value:.{digits}f}" if np.isfinite(value) else DASH
