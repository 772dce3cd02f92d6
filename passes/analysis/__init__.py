"""What a planned program costs, told without running it: time by the planner's own model, memory, replicated work."""

from .gathers import Comparison, Gathers
from .memory import USABLE, Memory, local_bytes, predict_eager_memory, predict_memory, weight_bytes
from .replication import Whole, whole_ops
from .stretches import stretches_of
from .time import NodeTimes

__all__ = [
    "USABLE",
    "Comparison",
    "Gathers",
    "Memory",
    "NodeTimes",
    "Whole",
    "local_bytes",
    "predict_eager_memory",
    "predict_memory",
    "stretches_of",
    "weight_bytes",
    "whole_ops",
]
