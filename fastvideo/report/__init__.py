"""``explain()``: how a model was captured, planned and placed, and what it costs. As data, and as text."""

from .build import Subject, program_report, report_of
from .records import (
    AttentionReport,
    BlockReport,
    CollectiveReport,
    EagerCallReport,
    MemoryReport,
    ProgramReport,
    ReplicatedReport,
    Report,
    StepReport,
)

__all__ = [
    "AttentionReport",
    "BlockReport",
    "CollectiveReport",
    "EagerCallReport",
    "MemoryReport",
    "ProgramReport",
    "ReplicatedReport",
    "Report",
    "StepReport",
    "Subject",
    "program_report",
    "report_of",
]
