"""What a pass may select: attention kernels, fused kernels, code generators. Importing this registers the built-ins."""

from . import attention, fused

__all__ = ["attention", "fused"]
