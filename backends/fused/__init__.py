"""Fused compute ops: one call where a model makes several. Each has a plain-PyTorch reference and a factor rule."""

from .linear_gelu import linear_gelu_op

__all__ = ["linear_gelu_op"]
