"""What looks at models beside compiling them: ``inspect``, ``bench`` and ``pareto``, each with its table."""
