"""Attention backends. Built-ins register here; third parties through ``fastvideo.register_attention_backend``."""

from .base import AttentionBackend, AttentionSite, No, Support, Yes
from .choice import AUTO, Choice, choose, named
from .flash_attn import FlashAttention
from .registry import backend_of, backends, op_of, register
from .sage import SageAttention
from .torch_sdpa import TorchSdpa

register(SageAttention())
register(TorchSdpa())
register(FlashAttention())

__all__ = [
    "AUTO",
    "AttentionBackend",
    "AttentionSite",
    "Choice",
    "FlashAttention",
    "No",
    "SageAttention",
    "Support",
    "TorchSdpa",
    "Yes",
    "backend_of",
    "backends",
    "choose",
    "named",
    "op_of",
    "register",
]
