"""At least one format of every class, alone and composed, for properties that all of them have."""

from __future__ import annotations

FORMS = (
    *("int4:g32", "int8:channel", "int2:g16:asym", "nf3:g16", "nf2:g16:dq", "fp4_e2m1:g32", "mxfp4", "bfp4:g16"),
    *("codebook:2", "codebook:3:g16", "power:3:channel", "sparse:2x4", "sparse:keep40", "int4:g16 @ sparse:2x4"),
    *("lowrank:r2", "monarch:b4", "kron:4x8", "tucker:4x2", "int4:channel @ lowrank:r2", "int4:channel @ monarch:b2"),
    *("int3:g16 + lowrank:r2", "sparse:keep10 + int2:g16", "int3:channel + int2:channel", "int4:channel @ kron:4x4"),
)
