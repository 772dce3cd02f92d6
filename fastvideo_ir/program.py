"""Program: a graph of tensor operations with typed values, and all that is needed to run it.

The graph is a ``torch.fx.Graph`` over pre-dispatch ATen ops and the ``fv`` dialect. Its placeholders are the params
first, then the flat tensor inputs; its output is a flat tuple. Device literals are :data:`DEVICE`, which stands for the
device that the program runs on, so that one program serves CPU, GPU and shape inference alike.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from .mesh import Coordinates, Mesh
from .recipes import recipe
from .types import TensorType, ValueType

DEVICE = torch.device("meta")
"""Stands for "the program's device" wherever an op takes a device."""

INFO_KEY = "fv"
"""The one key of ``node.meta`` that belongs to this project; it holds a :class:`NodeInfo`."""


class Stage(enum.IntEnum):
    """How far a program has been lowered; later stages may hold other ops (see :mod:`fastvideo_ir.verifier`)."""

    CAPTURED = 0
    """As traced: ATen only, global shapes, no placements."""
    CANONICAL = 1
    """Functional, without no-ops; attention recognised."""
    PLACED = 2
    """Every value has a placement; ``fv.reshard`` stands where two placements meet."""
    COMMUNICATING = 3
    """Reshards have become collectives and local slices; shape arguments are still global."""
    LOCAL = 4
    """Shape arguments are those of one rank."""
    LOWERED = 5
    """Runs as plain Python over torch ops and process groups."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a node comes from: the module path inside the model, and the model's own source line."""

    module: str = ""
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file else "?"
        return f"{self.module or '.'} at {place}"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Which pass made a node, and from which nodes."""

    by: str
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """All that this project knows of a node.

    Attributes:
        type: dtype, global shape and placement of what it yields; None for the output alone.
        location: where in the model it comes from.
        provenance: which pass made it.
        uses: the types in which it wants its tensor operands, where those may still differ from the operands' own.
            Set by ``plan-sharding``, honoured and cleared by ``insert-reshards``.
        pinned: for an input, the mesh axes along which its type is the user's choice; no pass may change it there.
        skippable: whether a call may leave it out (see :mod:`fastvideo_ir.memory`).
        invariant: whether it may be left out by calls whose invariant inputs are those of an earlier one.
    """

    type: ValueType | None
    location: Location | None = None
    provenance: Provenance | None = None
    uses: tuple[TensorType, ...] | None = None
    pinned: tuple[str, ...] = ()
    skippable: bool = False
    invariant: bool = False


class ParamKind(enum.Enum):
    """What a param is in the model."""

    PARAMETER = "parameter"
    BUFFER = "buffer"
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class Param:
    """A weight that the program reads.

    Attributes:
        source: its name in the model's state.
        kind: what it is there.
        recipe: what is made of it before it is placed, by name (see :mod:`fastvideo_ir.recipes`); None: nothing.
    """

    source: str
    kind: ParamKind = ParamKind.PARAMETER
    recipe: str | None = None

    @property
    def key(self) -> str:
        """Unique within a program; by it a rank finds the tensor."""
        return self.source if self.recipe is None else f"{self.source}|{self.recipe}"

    def made_from(self, tensor: torch.Tensor) -> torch.Tensor:
        """What the program reads, from the model's whole tensor."""
        return tensor if self.recipe is None else recipe(self.recipe)(tensor)


EagerFunction = Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]]
"""What ``fv.eager_call`` runs: whole operands in, tensors of the declared types out."""


@dataclass
class Program:
    """One graph, its params, and the mesh and stage it stands at.

    Attributes:
        graph: placeholders (params, then inputs), ops, output.
        params: placeholder name -> what it is in the model.
        mesh: the ranks that the placements in the types refer to.
        stage: which ops may occur.
        rank: the rank whose shapes the arguments hold, from stage LOCAL on.
        functions: what ``fv.eager_call`` runs, by name. The text form names them without holding them, so that they
            exist in the process alone that made the program.
        findings: what analyses have found, by their names and arguments. Forgotten when a pass begins, with every
            change by a rewriter, and by a copy.
    """

    graph: fx.Graph
    params: dict[str, Param] = field(default_factory=dict)
    mesh: Mesh = field(default_factory=Mesh)
    stage: Stage = Stage.CAPTURED
    rank: int | None = None
    functions: Mapping[str, EagerFunction] = field(default_factory=dict)
    findings: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def nodes(self) -> Iterator[fx.Node]:
        return iter(self.graph.nodes)

    @property
    def param_nodes(self) -> list[fx.Node]:
        return [node for node in self.graph.find_nodes(op="placeholder") if node.name in self.params]

    @property
    def input_nodes(self) -> list[fx.Node]:
        return [node for node in self.graph.find_nodes(op="placeholder") if node.name not in self.params]

    @property
    def output_node(self) -> fx.Node:
        return self.graph.output_node()

    @property
    def output_values(self) -> tuple[Any, ...]:
        """What the program returns: nodes, or constants where the model returns such."""
        values = self.output_node.args[0]
        assert isinstance(values, (tuple, list))
        return tuple(values)

    @property
    def coordinates(self) -> Coordinates:
        """Position of the program's rank; only from stage LOCAL on."""
        assert self.rank is not None, "only a local program has a rank"
        return self.mesh.coordinates(self.rank)

    def copy(self) -> Program:
        """A program that can be changed without touching this one; types and params are shared, nodes are not."""
        graph = fx.Graph()
        mapping: dict[fx.Node, fx.Node] = {}
        for node in self.graph.nodes:
            new = graph.node_copy(node, lambda old: mapping[old])
            new.name = node.name
            mapping[node] = new
        return replace(self, graph=graph, params=dict(self.params), findings={})


def info(node: fx.Node) -> NodeInfo:
    """What is known of ``node``."""
    result = node.meta[INFO_KEY]
    assert isinstance(result, NodeInfo)
    return result


def set_info(node: fx.Node, value: NodeInfo) -> None:
    node.meta[INFO_KEY] = value


def value_type(node: fx.Node) -> ValueType:
    """The type of ``node``; every node but the output has one."""
    result = info(node).type
    assert result is not None, f"{node.name} has no type"
    return result


def tensor_type(node: fx.Node) -> TensorType:
    """The type of a node that yields one tensor."""
    result = value_type(node)
    assert isinstance(result, TensorType), f"{node.name} yields {result}, not one tensor"
    return result


def set_type(node: fx.Node, new_type: ValueType) -> None:
    """Give ``node`` another type, keeping its location and provenance."""
    set_info(node, replace(info(node), type=new_type))


ParamValues = Mapping[str, torch.Tensor]
"""Tensors by the ``key`` of a param."""
