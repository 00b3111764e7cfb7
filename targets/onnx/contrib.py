"""Schemas of the ``com.microsoft`` operators that are emitted; onnxscript wants one for every operator it calls."""

from __future__ import annotations

from collections.abc import Sequence

import onnx.defs
from onnxscript import values

DOMAIN = "com.microsoft"
VERSION = 1

_OPSET = values.Opset(DOMAIN, VERSION)
_Schema = onnx.defs.OpSchema
_OPTIONAL = _Schema.FormalParameterOption.Optional
_INT, _STRING = _Schema.AttrType.INT, _Schema.AttrType.STRING
_ALL_TYPES = ["tensor(float)", "tensor(float16)", "tensor(uint8)", "tensor(int8)", "tensor(int32)", "tensor(int64)"]


def _operator(
    name: str,
    inputs: str,
    attributes: Sequence[tuple[str, onnx.defs.OpSchema.AttrType]] = (),
    outputs: str = "Y",
) -> values.Op:
    """A schema with one type variable per input, ``?`` marks optional ones; the runtime checks the real types."""
    parameters = _parameters(inputs, "T")
    results = _parameters(outputs, "TY")
    schema = _Schema(
        name,
        DOMAIN,
        VERSION,
        inputs=parameters,
        outputs=results,
        type_constraints=[(parameter.type_str, _ALL_TYPES, "") for parameter in (*parameters, *results)],
        attributes=[_Schema.Attribute(key, kind, "", required=False) for key, kind in attributes],
    )
    return values.Op(_OPSET, name, schema)


def _parameters(words: str, variable: str) -> list[onnx.defs.OpSchema.FormalParameter]:
    return [
        _Schema.FormalParameter(word.rstrip("?"), f"{variable}{i}", param_option=_OPTIONAL)
        if word.endswith("?")
        else _Schema.FormalParameter(word, f"{variable}{i}")
        for i, word in enumerate(words.split())
    ]


MatMulIntegerToFloat = _operator("MatMulIntegerToFloat", "A B a_scale b_scale a_zero_point? b_zero_point? bias?")
MatMulNBits = _operator(
    "MatMulNBits",
    "A B scales zero_points? g_idx? bias?",
    [("K", _INT), ("N", _INT), ("bits", _INT), ("block_size", _INT), ("accuracy_level", _INT)],
)
GatherBlockQuantized = _operator(
    "GatherBlockQuantized",
    "data indices scales zero_points?",
    [("bits", _INT), ("block_size", _INT), ("gather_axis", _INT), ("quantize_axis", _INT)],
)
RotaryEmbedding = _operator("RotaryEmbedding", "input position_ids cos_cache sin_cache", [("num_heads", _INT)])
QLinearAdd = _operator("QLinearAdd", "A A_scale A_zero_point? B B_scale B_zero_point? C_scale C_zero_point?")
DynamicQuantizeLSTM = _operator(
    "DynamicQuantizeLSTM",
    "X W R B? sequence_lens? initial_h? initial_c? P? W_scale W_zero_point R_scale R_zero_point",
    [("hidden_size", _INT), ("direction", _STRING)],
    "Y? Y_h? Y_c?",
)
