"""The stages of a compilation, one file each; ``compiler.py`` calls them in order."""
