"""The IR: programs over ATen ops with placements in their types. Knows nobody else in this project."""

from . import dialect, errors, fetching, interpreter, layout, ops, text, types
from .factors import Factor, FactorKind, FactorRule, RuleBuilder, Strategy, TensorExpr
from .layout import Layout, Segment
from .mesh import Mesh
from .ops import OpDef, Trait
from .pass_manager import ObservingPass, Pass, run_passes
from .program import (
    DEVICE,
    Location,
    NodeInfo,
    Param,
    ParamKind,
    Program,
    Provenance,
    Stage,
    info,
    set_info,
    tensor_type,
    value_type,
)
from .recipes import recipe, register_recipe
from .rewriter import Rewriter
from .text import parse_program, print_program
from .types import DimSharding, Partial, Placement, Replicate, Shard, TensorType, TupleType, local_slice
from .verifier import verify

__all__ = [
    "DEVICE",
    "DimSharding",
    "Factor",
    "FactorKind",
    "FactorRule",
    "Layout",
    "Location",
    "Mesh",
    "NodeInfo",
    "ObservingPass",
    "OpDef",
    "Param",
    "ParamKind",
    "Partial",
    "Pass",
    "Placement",
    "Program",
    "Provenance",
    "Replicate",
    "Rewriter",
    "RuleBuilder",
    "Segment",
    "Shard",
    "Stage",
    "Strategy",
    "TensorExpr",
    "TensorType",
    "Trait",
    "TupleType",
    "dialect",
    "errors",
    "fetching",
    "info",
    "interpreter",
    "layout",
    "local_slice",
    "ops",
    "parse_program",
    "print_program",
    "recipe",
    "register_recipe",
    "run_passes",
    "set_info",
    "tensor_type",
    "text",
    "types",
    "value_type",
    "verify",
]
