"""A device that is not at hand: bundles that it measures with a script of their own, and its answers as profiles."""
