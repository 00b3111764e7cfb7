"""Bit widths and residency together: widths change sizes, sizes change what stays in fast memory."""
