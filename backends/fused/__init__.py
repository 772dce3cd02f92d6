"""Fused compute ops: one call where a model makes several. Each has a plain-PyTorch reference and a factor rule."""

from .cat_linear import cat_linear_op
from .linear_gelu import linear_gelu_op
from .modulated_norm import add_norm_op, modulated_norm_op
from .norm_rotary import norm_rotary_op, rotary_fits
from .quantized_linear import quantize_tokens_op, scaled_linear_op

__all__ = [
    "add_norm_op",
    "cat_linear_op",
    "linear_gelu_op",
    "modulated_norm_op",
    "norm_rotary_op",
    "quantize_tokens_op",
    "rotary_fits",
    "scaled_linear_op",
]
