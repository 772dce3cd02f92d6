"""Executors: where the ranks of a program run. A new kind of executor is a new file here."""

from .base import Executor
from .local import LocalExecutor
from .mp import MpExecutor, WorkerGroup
from .simulated import SimulatedExecutor

__all__ = ["Executor", "LocalExecutor", "MpExecutor", "SimulatedExecutor", "WorkerGroup"]
