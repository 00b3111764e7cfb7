"""The plots of a report as plain Plotly data, from the report's content."""

from __future__ import annotations

from . import curve_plots, layer_plots
from .plotting import Content, Figure
from .reasons import OF_OUTPUTS


def figures(content: Content) -> dict[str, Figure]:
    """Name of a plot -> its Plotly figure. Plots without any data are left out."""
    layers = content["layers"]
    drawn: dict[str, Figure | None] = {
        "strip": layer_plots.strip(layers),
        "sizes": layer_plots.sizes(layers),
        "errors": layer_plots.errors(layers),
        "pareto": curve_plots.pareto(content["pareto"], as_error=content["environment"]["sensitivity"] in OF_OUTPUTS),
        "quality": curve_plots.quality(content["quality_search"], content["headline"]["quality_original"]),
        "losses": curve_plots.losses(content["losses"]),
        "stages": curve_plots.times(content["stages"]),
        "passes": curve_plots.times(content["passes"]),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}
