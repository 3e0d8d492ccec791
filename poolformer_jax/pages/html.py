"""Parts of self-contained HTML pages: sections, tables, pictures, clips to listen to.

A page holds everything inline (styles, pictures, sounds), so that it can be mailed or kept.
"""

from __future__ import annotations

import base64
import importlib.resources
import io
import urllib.parse
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from poolformer_jax.buckets import AnyPath
from poolformer_jax.pages.plots import plot_clip
from poolformer_jax.pages.run_files import Clip

_HEAD = (
    "<!DOCTYPE html>",
    "<html lang='en'>",
    "<head>",
    "<meta charset='utf-8'>",
    "<meta name='viewport' content='width=device-width, initial-scale=1'>",
    "<meta name='color-scheme' content='light dark'>",
)


def is_document(path: AnyPath) -> bool:
    """Whether a file is such a page: earlier versions kept no list of what they wrote."""
    head = "\n".join(_HEAD).encode()
    try:
        with path.open("rb") as file:
            return file.read(len(head)) == head
    except OSError:
        return False


def document(title: str, sections: Sequence[str]) -> str:
    """Returns a whole page as HTML text."""
    lines = [
        *_HEAD,
        f"<title>{escape(title)}</title>",
        f"<style>\n{_style()}</style>",
        "</head>",
        f"<body><main><h1>{escape(title)}</h1>",
        *sections,
        "</main></body>",
        "</html>",
    ]
    return "\n".join(lines) + "\n"


def embedded(content: str) -> str:
    """Parts of a page inside somebody else's, such as a notebook, which keeps its own style."""
    # Nested rules: `&` is the element that they are in.
    style = _style().replace(":root", "&").replace("\nbody {", "\n& {")
    return f"<style>.poolformer {{\n{style}}}</style><div class='poolformer'>{content}</div>"


def section(heading: str, content: str) -> str:
    """A heading and what is under it."""
    return f"<section><h2>{escape(heading)}</h2>{content}</section>"


def group(heading: str, content: str) -> str:
    """A part of a section."""
    return f"<h3>{escape(heading)}</h3>{content}"


def tiles(numbers: Sequence[tuple[str, str]]) -> str:
    """The numbers that a reader wants first, each with what it is."""
    return _box(
        "tiles",
        *(
            _box("tile", f"<strong>{escape(value)}</strong><span>{escape(label)}</span>")
            for value, label in numbers
        ),
    )


def table(
    rows: Sequence[Sequence[str]], *, header: Sequence[str] = (), numeric: bool = False
) -> str:
    """Rows whose first cell names them; `numeric` aligns the others to the right."""
    head = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in header)
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    body = "".join(
        f"<tr><th scope='row'>{escape(first)}</th>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in others)
        + "</tr>"
        for first, *others in rows
    )
    kind = "numbers" if numeric else "facts"
    return _box("scroll", f"<table class='{kind}'>{head}<tbody>{body}</tbody></table>")


def facts(values: Mapping[str, Any], prefix: str = "") -> list[list[str]]:
    """Rows of a table for nested values; the labels join the names: `Mixer recurrent width`."""
    rows = []
    for name, value in values.items():
        label = f"{prefix} {name}".strip().replace("_", " ").capitalize()
        rows += facts(value, label) if isinstance(value, Mapping) else [[label, _text(value)]]
    return rows


def caption(text: str) -> str:
    """A paragraph that explains what is above it."""
    return f"<p class='caption'>{escape(text)}</p>"


def hint(text: str, command: str) -> str:
    """What is missing, and the command that makes it."""
    return f"<p class='hint'>{escape(text)} Run <code>{escape(command)}</code></p>"


def warning(text: str) -> str:
    """What a reader must not overlook."""
    return f"<p class='hint warning'><strong>Careful:</strong> {escape(text)}</p>"


def muted(content: str) -> str:
    """What is there for orientation, and is no result."""
    return _box("muted", content)


def columns(contents: Sequence[str]) -> str:
    """Parts side by side, where there is room."""
    return _box("clips", *(f"<div>{content}</div>" for content in contents))


def picture(
    figure: Figure, description: str, *, caption: str = "", kind: str = "", dpi: int = 180
) -> str:
    """Inlines a figure as a transparent PNG, by default at twice the screen's density."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    # Without metadata, which holds a web address.
    figure.savefig(buffer, format="png", dpi=dpi, transparent=True, metadata={"Software": None})
    image = f"<img alt='{escape(description)}' src='{_inline(buffer.getvalue(), 'image/png')}'>"
    note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{_box(f'scroll {kind}'.strip(), image)}{note}</figure>"


def player(clip: Clip, *, inline: bool = True) -> str:
    """A clip to listen to, with its waveform and spectrogram.

    Args:
      clip: The clip.
      inline: Whether the HTML holds the sound; if not, it is looked for beside the page, as
        <name>.wav.
    """
    name = escape(clip.name)
    source = f"{urllib.parse.quote(clip.name)}.wav"
    if inline:
        source = _inline(clip.encoded, "audio/wav")
    facts = f"{clip.seconds:.2f} s", f"{clip.sample_rate / 1000:g} kHz", clip.note
    about = escape(" · ".join(filter(None, facts)))
    # A spectrogram hardly compresses: at this density it takes about 0.2 MB.
    spectrogram = picture(plot_clip(clip), f"Waveform and spectrogram of {clip.name}", dpi=110)
    return (
        f"<article><header><b>{name}</b><span>{about}</span></header>"
        f"<audio controls preload='metadata' aria-label='{name}' src='{source}'></audio>"
        f"{spectrogram}</article>"
    )


def players(clips: Sequence[Clip], *, inline: bool = True) -> str:
    """Several of them side by side."""
    return _box("clips", *(player(clip, inline=inline) for clip in clips))


def _text(value: Any) -> str:
    match value:
        case None | []:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case list() | tuple():
            return ", ".join(map(str, value))
        case _:
            return str(value)


def _style() -> str:
    return importlib.resources.files(__package__).joinpath("style.css").read_text("utf-8")


def _box(kind: str, *contents: str) -> str:
    return f"<div class='{kind}'>{''.join(contents)}</div>"


def _inline(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
