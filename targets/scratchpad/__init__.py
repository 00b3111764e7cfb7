"""The scratchpad target: a program for an accelerator whose fast memory is managed by software."""
