"""SAGE_ATTN: attention on 8-bit codes."""

from .backend import SageAttention

__all__ = ["SageAttention"]
