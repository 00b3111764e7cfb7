"""Cycles of a program of transfers and computations on a machine: two resources, prefetch, latency."""
