"""What a planned program costs, told without running it: time by the planner's own model, memory, replicated work."""

from .gathers import Comparison, Gathers
from .memory import Memory, predict_eager_memory, predict_memory, weight_bytes
from .replication import Whole, whole_ops
from .time import NodeTimes

__all__ = [
    "Comparison",
    "Gathers",
    "Memory",
    "NodeTimes",
    "Whole",
    "predict_eager_memory",
    "predict_memory",
    "weight_bytes",
    "whole_ops",
]
