"""Machine descriptions as data files; ``ir/machine.py`` reads them."""
