"""Runs tilings on numbers: an operand's buffer holds NaN wherever its tile does not reach."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from instar.schedulers.tiling.counter import walk
from instar.schedulers.tiling.operators import Conv
from instar.schedulers.tiling.problem import Tiling, TilingProblem

Array = npt.NDArray[np.float64]
Step = Mapping[str, tuple[int, int]]


def part(step: Step, *dims: str) -> tuple[slice, ...]:
    return tuple(slice(*step[dim]) for dim in dims)


def only(array: Array, where: tuple[slice, ...]) -> Array:
    """The array where it is loaded, NaN elsewhere."""
    held = np.full_like(array, np.nan)
    held[where] = array[where]
    return held


def run_linear(problem: TilingProblem, tiling: Tiling, x: Array, w: Array) -> Array:
    made = np.zeros((x.shape[0], w.shape[0]))
    for step in walk(problem, tiling):
        a, b = only(x, part(step, "m", "k")), only(w, part(step, "n", "k"))
        made[part(step, "m", "n")] += a[part(step, "m", "k")] @ b[part(step, "n", "k")].T
    return made


def run_conv(problem: TilingProblem, tiling: Tiling, shape: Conv, x: Array, w: Array) -> Array:
    """``x[g, ci, h, w]``, ``w[g, co, ci, kh, kw]`` -> ``y[g, co, oh, ow]``; outside of ``x`` is zero."""
    rows, columns = (axis for axis in problem.operands[0].axes if axis.windowed)
    made = np.zeros((shape.groups, w.shape[1], *shape.out))
    for step in walk(problem, tiling):
        where = (*part(step, "g", "ci"), reach(shape, 0, step["oh"]), reach(shape, 1, step["ow"]))
        held, weights = only(x, where), w[part(step, "g", "co", "ci")]
        assert rows.interval(*step["oh"])[1] - rows.interval(*step["oh"])[0] <= where[2].stop - where[2].start
        assert columns.extent == x.shape[3]
        for row in range(*step["oh"]):
            for column in range(*step["ow"]):
                window = taps(held[part(step, "g", "ci")], shape, row, column)
                made[(*part(step, "g", "co"), row, column)] += np.einsum("gikl,goikl->go", window, weights)
    return made


def reach(shape: Conv, axis: int, iterations: tuple[int, int]) -> slice:
    """Rows or columns of the input that iterations touch."""
    first = iterations[0] * shape.stride[axis] - shape.pad[axis]
    last = (iterations[1] - 1) * shape.stride[axis] - shape.pad[axis] + (shape.kernel[axis] - 1) * shape.dilation[axis]
    extent = (shape.height, shape.width)[axis]
    return slice(min(max(first, 0), extent), max(min(last + 1, extent), 0))


def taps(held: Array, shape: Conv, row: int, column: int) -> Array:
    """The window of one output position, ``[g, ci, kh, kw]``."""
    window = np.zeros((*held.shape[:2], *shape.kernel))
    for i in range(shape.kernel[0]):
        for j in range(shape.kernel[1]):
            y = row * shape.stride[0] - shape.pad[0] + i * shape.dilation[0]
            x = column * shape.stride[1] - shape.pad[1] + j * shape.dilation[1]
            if 0 <= y < shape.height and 0 <= x < shape.width:
                window[:, :, i, j] = held[:, :, y, x]
    return window


def run_attention(problem: TilingProblem, tiling: Tiling, q: Array, k: Array, v: Array) -> Array:
    """One pass with running maximum and sum; ``q[h, n, d]``, ``k[h, m, d]``, ``v[h, m, e]``."""
    made, total = np.zeros((*q.shape[:2], v.shape[2])), np.zeros(q.shape[:2])
    most = np.full(q.shape[:2], -np.inf)
    for step in walk(problem, tiling):
        query, key = part(step, "h", "q"), part(step, "h", "k")
        scores = np.einsum("hqd,hkd->hqk", only(q, query)[query], only(k, key)[key])
        larger = np.maximum(most[query], scores.max(axis=2))
        weights, shrink = np.exp(scores - larger[..., None]), np.exp(most[query] - larger)
        total[query] = total[query] * shrink + weights.sum(axis=2)
        made[query] = made[query] * shrink[..., None] + np.einsum("hqk,hke->hqe", weights, only(v, key)[key])
        most[query] = larger
    return made / total[..., None]
