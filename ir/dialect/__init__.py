"""instar's own operators, registered with ``torch.library`` in the namespace ``instar``: a file for each family.

Each is functional, has a fake kernel that accepts symbolic sizes, and a straight-through gradient, so that a graph with
these ops runs, trains and exports like any other. Importing this package registers them; it imports nothing but torch.
"""

from .activations import fake_quantize_dynamic, fake_quantize_static, granularity_group
from .groups import join_groups, split_groups
from .integers import (
    dequantize_apart,
    dequantize_static,
    lookup,
    quantize_apart,
    quantize_dynamic,
    quantize_static,
    quantize_tokens,
    requantize,
)
from .levels import dequantize_levels
from .products import (
    BIAS_LIMIT,
    add_int8,
    conv_int8,
    int8_weight,
    integer_bias,
    linear_int8,
    linear_int8_tokens,
)
from .products import FACTS as PRODUCTS
from .recurrent import FACTS as RECURRENT
from .recurrent import recurrent
from .recurrent_int8 import FACTS as RECURRENT_INT8
from .recurrent_int8 import lstm_int8
from .sums import FACTS as SUMS
from .sums import conv_sums, linear_sums, matmul_sums, softmax_codes, weighted_means
from .weights import SMALLEST_STEP, dequantize, dequantize_int8, expanded_int8, row_scale

NAMESPACE = "instar"

FACTS = {**PRODUCTS, **RECURRENT, **RECURRENT_INT8, **SUMS}
"""What is known about ops that do not work element by element."""

__all__ = [
    "BIAS_LIMIT",
    "FACTS",
    "NAMESPACE",
    "SMALLEST_STEP",
    "add_int8",
    "conv_int8",
    "conv_sums",
    "dequantize",
    "dequantize_apart",
    "dequantize_int8",
    "dequantize_levels",
    "dequantize_static",
    "expanded_int8",
    "fake_quantize_dynamic",
    "fake_quantize_static",
    "granularity_group",
    "int8_weight",
    "integer_bias",
    "join_groups",
    "linear_int8",
    "linear_int8_tokens",
    "linear_sums",
    "lookup",
    "lstm_int8",
    "matmul_sums",
    "quantize_apart",
    "quantize_dynamic",
    "quantize_static",
    "quantize_tokens",
    "recurrent",
    "requantize",
    "row_scale",
    "softmax_codes",
    "split_groups",
    "weighted_means",
]
