"""instar's own operators, registered with ``torch.library`` in the namespace ``instar``: a file for each family.

Each is functional, has a fake kernel that accepts symbolic sizes, and a straight-through gradient, so that a graph with
these ops runs, trains and exports like any other. Importing this package registers them; it imports nothing but torch.
"""

from .activations import fake_quantize_dynamic, fake_quantize_static, granularity_group
from .groups import join_groups, split_groups
from .weights import SMALLEST_STEP, dequantize, dequantize_int8, expanded_int8, row_scale

NAMESPACE = "instar"

__all__ = [
    "NAMESPACE",
    "SMALLEST_STEP",
    "dequantize",
    "dequantize_int8",
    "expanded_int8",
    "fake_quantize_dynamic",
    "fake_quantize_static",
    "granularity_group",
    "join_groups",
    "row_scale",
    "split_groups",
]
