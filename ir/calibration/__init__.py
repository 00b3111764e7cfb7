"""Calibration: one streaming pass over data that learns what every weight and activation is worth."""
