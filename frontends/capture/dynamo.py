"""Capture through Dynamo, the last resort: it follows Python bytecode, and may lose writes that it does not see."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from .eager_calls import Reason
from .export import export
from .signature import BoundCall
from .trace import Trace


def trace_with_dynamo(model: nn.Module, call: BoundCall, stay_eager: Mapping[str, Reason]) -> Trace:
    """Trace ``call`` with ``torch.export.export(strict=True)``.

    Raises:
        StrategyFailedError: Dynamo refuses the model.
    """
    return export(model, call, strict=True)
