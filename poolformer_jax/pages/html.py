"""Parts of self-contained HTML pages: sections, tables, pictures, clips to listen to.

A page holds everything inline (styles, pictures, sounds), so that it can be mailed or kept.
"""

from __future__ import annotations

import base64
import html
import io
import urllib.parse
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from poolformer_jax.pages.plots import plot_clip
from poolformer_jax.pages.run_files import Clip


def document(title: str, sections: Sequence[str]) -> str:
    """Returns a whole page as HTML text."""
    return _PAGE.format(title=html.escape(title), style=_STYLE, body="\n".join(sections))


def tiles(numbers: Sequence[tuple[str, str]]) -> str:
    """The numbers that a reader wants first, each with what it is."""
    cells = "".join(
        f"<div class='tile'><strong>{html.escape(value)}</strong>"
        f"<span>{html.escape(label)}</span></div>"
        for value, label in numbers
    )
    return f"<div class='tiles'>{cells}</div>"


def section(heading: str, content: str) -> str:
    """A heading and what is under it."""
    return f"<section><h2>{html.escape(heading)}</h2>{content}</section>"


def table(
    rows: Sequence[Sequence[str]], *, header: Sequence[str] = (), numeric: bool = False
) -> str:
    """Rows whose first cell names them; `numeric` aligns the others to the right."""
    head = "".join(f"<th scope='col'>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr><th scope='row'>{html.escape(row[0])}</th>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    kind = "numbers" if numeric else "facts"
    return f"<div class='scroll'><table class='{kind}'>{head}<tbody>{body}</tbody></table></div>"


def hint(text: str, command: str) -> str:
    """What is missing, and the command that makes it."""
    return f"<p class='hint'>{html.escape(text)} Run <code>{html.escape(command)}</code></p>"


def warning(text: str) -> str:
    """What a reader must not overlook."""
    return f"<p class='hint warning'><strong>Careful:</strong> {html.escape(text)}</p>"


def group(heading: str, content: str) -> str:
    """A part of a section."""
    return f"<h3>{html.escape(heading)}</h3>{content}"


def muted(content: str) -> str:
    """What is there for orientation, and is no result."""
    return f"<div class='muted'>{content}</div>"


def columns(contents: Sequence[str]) -> str:
    """Parts side by side, where there is room."""
    parts = "".join(f"<div>{content}</div>" for content in contents)
    return f"<div class='clips'>{parts}</div>"


def caption(text: str) -> str:
    """A paragraph that explains what is above it."""
    return f"<p class='caption'>{html.escape(text)}</p>"


def clip_cards(
    clips: Sequence[Clip], notes: Sequence[str] | None = None, *, inline: bool = True
) -> str:
    """Players with waveforms and spectrograms side by side, each with a note if there are any.

    Sounds that are not inline are looked for beside the page, as <name>.wav.
    """
    notes = notes or [""] * len(clips)
    cards = [_clip_card(clip, note, inline) for clip, note in zip(clips, notes, strict=True)]
    return f"<div class='clips'>{''.join(cards)}</div>"


def picture(
    figure: Figure, description: str, *, caption: str = "", kind: str = "", dpi: int = 180
) -> str:
    """Inlines a figure as a transparent PNG, by default at twice the screen's density."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    # Without metadata, which holds a web address.
    figure.savefig(buffer, format="png", dpi=dpi, transparent=True, metadata={"Software": None})
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    image = f"<img alt='{html.escape(description)}' src='data:image/png;base64,{encoded}'>"
    return (
        f"<figure><div class='scroll {kind}'>{image}</div>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _clip_card(clip: Clip, note: str, inline: bool) -> str:
    name = html.escape(clip.name)
    source = f"{urllib.parse.quote(clip.name)}.wav"
    if inline:
        source = f"data:audio/wav;base64,{base64.b64encode(clip.encoded).decode('ascii')}"
    seconds = len(clip.pcm) / clip.sample_rate
    facts = [f"{seconds:.2f} s", f"{clip.sample_rate / 1000:g} kHz", *([note] if note else [])]
    return (
        f"<article><header><b>{name}</b><span>{html.escape(' · '.join(facts))}</span></header>"
        f"<audio controls preload='metadata' aria-label='{name}' "
        f"src='{source}'></audio>"
        f"{_clip_picture(clip)}</article>"
    )


def _clip_picture(clip: Clip) -> str:
    # A spectrogram hardly compresses: at this density it takes about 0.2 MB.
    return picture(plot_clip(clip), f"Waveform and spectrogram of {clip.name}", dpi=110)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""


_STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1c2129; --soft: #59616d; --line: #dfe3e8; --page: #ffffff; --card: #f6f7f9;
  --accent: #2864c7; --alert: #b4540a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e4e7eb; --soft: #9aa3ae; --line: #2c323a; --page: #111418; --card: #191d23;
    --accent: #7fb0ff; --alert: #f0a35e;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1.25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-bottom: .35rem;
  border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; font-weight: 600; margin: 1.5rem 0 .6rem; color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .75rem; }
.tile { background: var(--card); border-radius: 10px; padding: .9rem 1.1rem; }
.tile strong { display: block; font-size: 1.5rem; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.tile span, .caption, figcaption { color: var(--soft); font-size: .875rem; }
figure { margin: 0; }
figcaption:empty { display: none; }
img { display: block; width: 100%; height: auto; }
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr));
  gap: 1rem; }
article { background: var(--card); border-radius: 10px; padding: .9rem; min-width: 0; }
article header { display: flex; justify-content: space-between; gap: 1rem; margin-bottom: .5rem; }
article header b { overflow-wrap: anywhere; }
article header span { color: var(--soft); font-size: .875rem; white-space: nowrap; }
audio { width: 100%; height: 2.5rem; margin-bottom: .5rem; }
.scroll { overflow-x: auto; }
.wide img { min-width: 38rem; }
table { border-collapse: collapse; font-size: .95rem; }
table.numbers { width: 100%; font-size: .9rem; }
th, td { text-align: left; font-weight: 400; padding: .4rem 1.5rem .4rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
tbody th, thead th { color: var(--soft); }
tbody th { white-space: nowrap; }
.facts td { overflow-wrap: anywhere; }
.numbers td, .numbers th { white-space: nowrap; padding-right: .9rem; }
th:last-child, td:last-child { padding-right: 0; }
.numbers td, .numbers thead th:not(:first-child) { text-align: right; }
.hint { background: var(--card); border-left: 3px solid var(--accent); border-radius: 4px;
  padding: .7rem 1rem; }
.warning { border-color: var(--alert); margin: .75rem 0; }
.warning strong { color: var(--alert); }
.muted table, .muted h3 { opacity: .75; }
code { font: .9em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  overflow-wrap: anywhere; color: var(--accent); }
"""
