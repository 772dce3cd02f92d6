"""Capture: an unmodified ``nn.Module`` and one call of it become one graph of pre-dispatch ATen ops."""

from .call_spec import CallSpec
from .driver import Attempt, Captured, CaptureReport, capture
from .eager_calls import EagerCallWarning, ModuleCall
from .signature import Signature, signature_of

__all__ = [
    "Attempt",
    "CallSpec",
    "CaptureReport",
    "Captured",
    "EagerCallWarning",
    "ModuleCall",
    "Signature",
    "capture",
    "signature_of",
]
