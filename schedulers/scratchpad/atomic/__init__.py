"""Operators that run whole, as in COSMA: order, replacement and addresses."""
