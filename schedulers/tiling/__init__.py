"""Tiles inside one operator: sizes along all axes and the order of loops that move the fewest bytes."""
