"""instar: a compiler that shrinks and speeds up neural networks."""
