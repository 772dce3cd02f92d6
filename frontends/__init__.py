"""Everything that brings a model in: capture, registry, weight loading, families."""
