"""The rules of :class:`instar.passes.canonicalize.Canonicalize`, by subject."""
