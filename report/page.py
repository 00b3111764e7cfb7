"""A report as one HTML document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ..ir import json_values
from ..ir.machine_picture import MachinePicture
from . import words
from .figures import figures
from .machine_picture import SCRIPT as MACHINE_SCRIPT
from .machine_picture import interactive
from .plotting import Figure, colour

HERE = Path(__file__).parent
FILTERS: dict[str, Any] = {
    "amount": lambda value, resource: words.amount(resource, value),
    "colour": colour,
    "count": words.count,
    "decibels": words.decibels,
    "figures": lambda value, digits=3: words.MISSING if value is None else words.figures(value, digits),
    "loss": words.loss,
    "machine": lambda value: Markup(interactive(json_values.read(MachinePicture, value, "report"))),
    "machine_script": lambda _: Markup(script_source(MACHINE_SCRIPT)),
    "milliseconds": words.milliseconds,
    "percent": words.percent,
    "plural": words.plural,
    "pretty": partial(json.dumps, indent=2, ensure_ascii=False),
    "seconds": words.seconds,
    "shorten": words.shorten,
    "size": words.size,
    "unit": words.unit,
}


def render(content: Mapping[str, Any], plotly: str | None = None) -> str:
    """A report as one HTML document that needs nothing beside it.

    Args:
        content: see :func:`instar.report.content.content`.
        plotly: the source of plotly.js; taken from the plotly package where not given.
    """
    return document("template.html", content, figures(content), plotly)


def document(template: str, content: Mapping[str, Any], drawn: Mapping[str, Figure], plotly: str | None = None) -> str:
    """A template filled in; its plots are drawn into the elements ``plot-<name>``.

    Args:
        template: name of a template in this folder that extends ``base.html``.
        content: JSON data that the template shows; kept in the document for the link that saves it.
        drawn: name of a plot -> Plotly figure.
        plotly: the source of plotly.js; taken from the plotly package where not given, left out without plots.
    """
    source = (get_plotlyjs() if plotly is None else plotly) if drawn else ""
    inlined = {"style": Markup(_read("style.css")), "script": Markup(_read("report.js"))}
    page = _environment().get_template(template)
    return page.render(
        content=content,
        drawn=frozenset(drawn),
        figures=script_json(drawn),
        data=script_json(content),
        plotly=Markup(script_source(source)),
        **inlined,
    )


def script_json(value: object) -> Markup:
    r"""JSON that may stand inside a ``<script>`` element: nothing in it can end the element or start a comment.

    >>> print(script_json({"name": "</script>"}))
    {"name":"\u003c/script\u003e"}
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def script_source(source: str) -> str:
    r"""JavaScript that may stand inside a ``<script>`` element.

    >>> script_source("a = '</script>'")
    "a = '<\\/script>'"
    """
    return source.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters.update(FILTERS)
    return made


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
