"""Which ONNX Runtime loads what: a table of every version's kernels, and what a model asks of it."""
