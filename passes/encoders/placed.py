"""Codes of the weights that a sparse matrix keeps, chosen together with the updates that dropping others asks for."""

from __future__ import annotations

import torch
from torch import Tensor

from ..formats.grids import Choice, Grid, Parameters, best_rows, column_parameters, decode_choice
from ..objective import FactoredHessian, Placed
from .error_feedback import error_feedback


def placed_feedback(within: Placed, grid: Grid, group: int, start: Choice, factored: FactoredHessian) -> Choice:
    """Row by row the better of ``start`` and of error feedback over the whole weight, for codes of kept weights.

    Columns of the whole weight are visited from left to right. A dropped weight is rounded to zero and a kept one to
    its grid; either error moves into the columns that follow (SparseGPT, arXiv 2301.00774, section 3.5: sparsification
    and quantization in one pass). The mask is given, and scales are those of ``start``.

    Args:
        within: where the kept weights stand.
        grid: of the codes.
        group: kept weights that share parameters; 0 for all of a row.
        start: codes ``[rows, kept]`` and their parameters.
        factored: the second moment of the whole weight, visited from left to right.
    """
    matrix, kept = within.whole.matrix, start.codes.shape[1]
    quantizer = _Kept(within.mask, grid, column_parameters(start.parameters, kept, group), start.codes)
    error_feedback(matrix, factored, quantizer)
    found = (start, Choice(quantizer.codes, start.parameters))
    errors = [within.whole.row_errors(matrix - within.spread(decode_choice(grid, group, each))) for each in found]
    return best_rows(found, torch.stack(errors))


class _Kept:
    """Rounds kept weights ``[rows]`` of a column with the parameters of their places; the others become zero."""

    def __init__(self, mask: Tensor, grid: Grid, parameters: Parameters, codes: Tensor) -> None:
        self.codes = codes.clone()
        self._mask, self._grid, self._parameters = mask, grid, parameters
        self._places = mask.cumsum(dim=1).sub_(1).clamp_(min=0)

    def start_group(self, first: int, columns: Tensor) -> None:
        """Nothing to fit."""

    def column(self, index: int, values: Tensor) -> Tensor:
        kept, place = self._mask[:, index], self._places[:, index : index + 1]
        parameters = tuple(p.gather(1, place).squeeze(1) for p in self._parameters)
        codes = self._grid.quantize(values, parameters)
        before = self.codes.gather(1, place).squeeze(1)
        self.codes.scatter_(1, place, torch.where(kept, codes, before).unsqueeze(1))
        return self._grid.dequantize(codes, parameters) * kept
