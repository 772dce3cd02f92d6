"""Attention backends. Built-ins register here; third parties through ``fastvideo.register_attention_backend``."""

from .base import AttentionBackend, AttentionSite, No, Support, Yes
from .choice import AUTO, Choice, Wish, allowed, choose, named, wished
from .flash_attn import FlashAttention
from .measured import Fastest, on_this_gpu
from .registry import backend_of, backends, op_of, register
from .sage import SageAttention
from .sliding_tile import SlidingTile, TokenGrid, sliding_tile_op
from .torch_sdpa import SdpaCudnn, SdpaEfficient, SdpaFlash, TorchSdpa

register(SageAttention())
register(SdpaEfficient())
register(SdpaFlash())
register(SdpaCudnn())
register(TorchSdpa())
register(FlashAttention())
register(SlidingTile(), sliding_tile_op)

__all__ = [
    "AUTO",
    "AttentionBackend",
    "AttentionSite",
    "Choice",
    "Fastest",
    "FlashAttention",
    "No",
    "SageAttention",
    "SlidingTile",
    "Support",
    "TokenGrid",
    "TorchSdpa",
    "Wish",
    "Yes",
    "allowed",
    "backend_of",
    "backends",
    "choose",
    "named",
    "on_this_gpu",
    "op_of",
    "register",
    "wished",
]
