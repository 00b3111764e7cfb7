"""A schedule as a picture: memory over time as rectangles, what the DMA engine and the core do below, spills marked.

One SVG that can be read without JavaScript; with it the wheel zooms around the pointer, dragging moves, a double click
shows everything again, and pointing at anything says what it is. No network, no library.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence

from ..ir.machine_picture import Box, MachinePicture, Span

WIDTH, MEMORY_HEIGHT, LANE_HEIGHT, LEFT, TOP, GAP = 1200, 420, 34, 86, 34, 26
LEAST_PIXELS = 0.35
"""Spans shorter than this are drawn together with their neighbours of the same kind."""

COLOURS: dict[str, str] = {
    "whole": "#4c8c6b",
    "line": "#9ccbb0",
    "weights": "#7b8fc7",
    "stream": "#b9c4e6",
    "compute": "#4c8c6b",
    "input": "#8a8a8a",
    "weight": "#7b8fc7",
    "output": "#5a5a5a",
    "spill_read": "#d2553d",
    "spill_write": "#b03a2a",
    "weight_reread": "#e0913a",
}
WORDS = {
    "whole": "tensor, whole",
    "line": "rows of a tensor",
    "weights": "weights that stay",
    "stream": "room for passing weights",
    "compute": "computes",
    "input": "reads an input",
    "weight": "reads weights",
    "output": "writes an output",
    "spill_read": "reads back what was spilled",
    "spill_write": "spills",
    "weight_reread": "reads weights again",
}
SPILLS = ("spill_read", "spill_write", "weight_reread")


def svg(picture: MachinePicture) -> str:
    """The picture as one SVG element."""
    lanes = TOP + MEMORY_HEIGHT + GAP
    height = lanes + 2 * (LANE_HEIGHT + 8) + 82
    parts = [
        f'<svg class="machine" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 20} {height}" '
        f'font-family="system-ui, sans-serif" font-size="12" role="img" aria-label="{_text(picture.title)}">',
        "<style>.spill{stroke:#b03a2a;stroke-width:1.5}.axis{stroke:#999}.quiet{fill:#666}</style>",
        f'<text x="{LEFT}" y="18" font-size="14" font-weight="600">{_text(picture.title)}</text>',
        f'<clipPath id="inside"><rect x="{LEFT}" y="{TOP}" width="{WIDTH}" height="{height}"/></clipPath>',
        *_axes(picture, lanes),
        f'<g clip-path="url(#inside)"><g class="zoomed" data-left="{LEFT}" data-width="{WIDTH}">',
        *(_box(picture, box) for box in sorted(picture.boxes, key=lambda box: box.spilled)),
        *_lane(picture, picture.dma, lanes),
        *_lane(picture, picture.core, lanes + LANE_HEIGHT + 8),
        "</g></g>",
        *_legend(picture, lanes + 2 * (LANE_HEIGHT + 8) + 44),
        "</svg>",
    ]
    return "\n".join(parts)


def _x(picture: MachinePicture, moment: float) -> float:
    return LEFT + WIDTH * moment / picture.end


def _y(picture: MachinePicture, address: float) -> float:
    return TOP + MEMORY_HEIGHT * (1 - address / max(picture.budget_bytes, 1))


def _axes(picture: MachinePicture, lanes: float) -> Iterable[str]:
    for share in range(5):
        size = picture.budget_bytes * share / 4
        y = _y(picture, size)
        yield f'<line class="axis" x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke-opacity="0.35"/>'
        yield f'<text class="quiet" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_size(size)}</text>'
    for name, place in (("DMA", lanes), ("core", lanes + LANE_HEIGHT + 8)):
        yield f'<text class="quiet" x="{LEFT - 8}" y="{place + LANE_HEIGHT / 2 + 4}" text-anchor="end">{name}</text>'
        yield f'<rect x="{LEFT}" y="{place}" width="{WIDTH}" height="{LANE_HEIGHT}" fill="#8881" stroke="none"/>'
    below = lanes + 2 * (LANE_HEIGHT + 8) + 12
    for share in range(5):
        moment = picture.end * share / 4
        anchor = "start" if share == 0 else "end" if share == 4 else "middle"
        yield (
            f'<text class="quiet tick" data-share="{share / 4}" x="{_x(picture, moment):.1f}" y="{below}" '
            f'text-anchor="{anchor}">{moment:,.0f}{" " + picture.unit if share == 4 else ""}</text>'
        )


def _box(picture: MachinePicture, box: Box) -> str:
    x, y = _x(picture, box.start), _y(picture, box.address + box.size_bytes)
    width, height = _x(picture, box.stop) - x, _y(picture, box.address) - y
    words = f"{box.name}: {WORDS[box.kind]}, {box.size_bytes:,} bytes at {box.address:,}"
    words += ", spilled" if box.spilled else ""
    style = ' class="spill"' if box.spilled else ' stroke="#fff" stroke-width="0.4"'
    label = ""
    if width > 60 and height > 11:
        clip = max(int(width / 6.6), 1)
        place = f'x="{x + 4:.2f}" y="{y + min(height / 2 + 4, 14):.2f}"'
        label = f'<text {place} font-size="11" fill="#fff" pointer-events="none">{_text(box.name[:clip])}</text>'
    return (
        f'<rect{style} x="{x:.2f}" y="{y:.2f}" width="{max(width, 0.4):.2f}" height="{max(height, 0.6):.2f}" '
        f'fill="{COLOURS[box.kind]}"><title>{_text(words)}</title></rect>{label}'
    )


def _lane(picture: MachinePicture, spans: Sequence[Span], y: float) -> Iterable[str]:
    for span in _joined(picture, spans):
        x, width = _x(picture, span.start), _x(picture, span.stop) - _x(picture, span.start)
        moved = f", {span.size_bytes:,} bytes" if span.size_bytes else ""
        words = f"{span.name}: {WORDS[span.kind]}{moved}, {span.start:,.0f} to {span.stop:,.0f} {picture.unit}"
        tall = 0 if span.kind in SPILLS or span.kind == "compute" else 5
        yield (
            f'<rect x="{x:.2f}" y="{y + tall}" width="{max(width, 0.25):.2f}" height="{LANE_HEIGHT - 2 * tall}" '
            f'fill="{COLOURS[span.kind]}"><title>{_text(words)}</title></rect>'
        )


def _joined(picture: MachinePicture, spans: Sequence[Span]) -> list[Span]:
    """Spans that are too thin to be seen become one with their neighbours of the same kind."""
    thin = picture.end * LEAST_PIXELS / WIDTH
    found: list[Span] = []
    for span in spans:
        last = found[-1] if found else None
        near = last is not None and span.kind == last.kind and span.start - last.stop < thin
        if last is not None and near and (span.stop - span.start < 8 * thin or span.name == last.name):
            name = last.name if span.name in last.name else _both(last.name, span.name)
            size = last.size_bytes + span.size_bytes
            found[-1] = Span(name, span.kind, last.start, max(last.stop, span.stop), size)
        else:
            found.append(span)
    return found


def _both(first: str, second: str) -> str:
    return f"{first.split(' .. ')[0]} .. {second}"


def _legend(picture: MachinePicture, y: float) -> Iterable[str]:
    kinds = {box.kind: None for box in picture.boxes} | {span.kind: None for span in picture.dma}
    x = float(LEFT)
    for kind in (kind for kind in COLOURS if kind in kinds):
        if x + 34 + 6.0 * len(WORDS[kind]) > LEFT + WIDTH:
            x, y = float(LEFT), y + 18
        yield f'<rect x="{x}" y="{y - 10}" width="11" height="11" fill="{COLOURS[kind]}"/>'
        yield f'<text class="quiet" x="{x + 16}" y="{y}">{WORDS[kind]}</text>'
        x += 34 + 6.0 * len(WORDS[kind])


def _size(size: float) -> str:
    return f"{size / 1024:,.0f} KiB" if size >= 4096 else f"{size:,.0f} B"


def _text(text: str) -> str:
    return html.escape(text, quote=True)


SCRIPT = """
for (const picture of document.querySelectorAll('svg.machine')) {
  const group = picture.querySelector('.zoomed');
  const left = +group.dataset.left, width = +group.dataset.width;
  const end = +picture.dataset.end, unit = picture.dataset.unit;
  let scale = 1, shift = 0, drag = null;
  const at = event => {
    const box = picture.getBoundingClientRect();
    return (event.clientX - box.left) / box.width * picture.viewBox.baseVal.width - left;
  };
  const show = () => {
    shift = Math.min(0, Math.max(width - width * scale, shift));
    group.setAttribute('transform', `translate(${left + shift} 0) scale(${scale} 1) translate(${-left} 0)`);
    for (const label of group.querySelectorAll('text')) {
      const x = +label.getAttribute('x');
      label.setAttribute('transform', `translate(${x} 0) scale(${1 / scale} 1) translate(${-x} 0)`);
    }
    for (const tick of picture.querySelectorAll('.tick')) {
      const share = +tick.dataset.share;
      const moment = Math.round(end * (share * width - shift) / (width * scale));
      tick.textContent = moment.toLocaleString('en') + (share === 1 ? ' ' + unit : '');
    }
  };
  picture.addEventListener('wheel', event => {
    event.preventDefault();
    const x = at(event), before = (x - shift) / scale;
    scale = Math.min(2000, Math.max(1, scale * Math.exp(-event.deltaY / 300)));
    shift = x - before * scale;
    show();
  }, {passive: false});
  picture.addEventListener('pointerdown', event => {
    drag = at(event) - shift;
    picture.setPointerCapture(event.pointerId);
  });
  picture.addEventListener('pointermove', event => { if (drag !== null) { shift = at(event) - drag; show(); } });
  picture.addEventListener('pointerup', () => { drag = null; });
  picture.addEventListener('dblclick', () => { scale = 1; shift = 0; show(); });
}
"""


def interactive(picture: MachinePicture) -> str:
    """The SVG with what its script reads."""
    data = (
        f'data-end="{picture.end}" data-unit="{_text(picture.unit)}" style="touch-action:none;cursor:grab;width:100%" '
    )
    return svg(picture).replace('<svg class="machine" ', f'<svg class="machine" {data}', 1)


def page(picture: MachinePicture) -> str:
    """One HTML document that needs nothing beside it."""
    facts = "".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in picture.facts)
    notes = "".join(f"<li>{_text(note)}</li>" for note in picture.notes)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{_text(picture.title)}</title>
<style>body{{font-family:system-ui,sans-serif;max-width:1400px;margin:24px auto;padding:0 16px;color:#222}}
th{{text-align:left;font-weight:500;padding-right:24px;color:#666}}td{{font-variant-numeric:tabular-nums}}
.quiet{{color:#666}}</style></head><body>
<h1>{_text(picture.title)}</h1>
{interactive(picture)}
<p class="quiet">Wheel: zoom. Drag: move. Double click: everything.</p>
<table>{facts}</table>
<h2>{"Why something leaves the chip" if notes else "Nothing leaves the chip"}</h2>
<ul>{notes}</ul>
<script>{SCRIPT}</script>
</body></html>
"""


def as_json(picture: MachinePicture) -> str:
    """Facts and notes for scripts."""
    return json.dumps({"title": picture.title, "facts": dict(picture.facts), "notes": list(picture.notes)})
