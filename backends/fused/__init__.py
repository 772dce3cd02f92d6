"""Fused compute ops: one call where a model makes several. Each has a plain-PyTorch reference and a factor rule."""

from .linear_gelu import linear_gelu_op
from .quantized_linear import quantize_tokens_op, scaled_linear_op

__all__ = ["linear_gelu_op", "quantize_tokens_op", "scaled_linear_op"]
