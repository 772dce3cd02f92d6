"""Random programs of ops with rules, for hypothesis: what one op's rule says must still hold behind another one's."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, fx

import fastvideo_ir as ir
from fastvideo_ir.ops.define import resolve

MOST_ELEMENTS = 1500
MOST_DIMS = 5
LARGE = 50.0
SIZES = (2, 3, 4, 5, 6, 7, 8)

Draw = Callable[[st.SearchStrategy[Any]], Any]


class Builder:
    """A program that grows call by call, with the value of each call at hand."""

    def __init__(self, draw: Draw, seed: int) -> None:
        self.draw = draw
        self._generator = torch.Generator().manual_seed(seed)
        self.program = ir.Program(fx.Graph(), stage=ir.Stage.CANONICAL)
        self.program.graph.output(())
        self._rewriter = ir.Rewriter(self.program, "random")
        self.values: dict[fx.Node, Tensor] = {}
        self.params: dict[str, Tensor] = {}
        self.inputs: list[Tensor] = []

    def pick(self, options: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(list(options)))

    def flip(self) -> bool:
        return bool(self.draw(st.booleans()))

    def size(self) -> int:
        return int(self.pick(SIZES))

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        return ir.tensor_type(node).shape

    def _placeholder(self, name: str, value: Tensor, *, is_param: bool) -> fx.Node:
        nodes = list(self.program.nodes)
        behind = [n for n in nodes if n.op == "placeholder" and (not is_param or n.name in self.program.params)]
        anchor = behind[-1] if behind else None
        with self.program.graph.inserting_after(anchor) if anchor else self.program.graph.inserting_before(nodes[0]):
            node = self.program.graph.placeholder(name)
        node.meta = {}
        ir.set_info(node, ir.NodeInfo(ir.TensorType.of(value)))
        self.values[node] = value
        return node

    def input(self, *shape: int) -> fx.Node:
        value = torch.randn(shape, dtype=torch.float64, generator=self._generator)
        self.inputs.append(value)
        return self._placeholder(f"x{len(self.inputs)}", value, is_param=False)

    def param(self, *shape: int, below: int | None = None) -> fx.Node:
        """Normal numbers scaled like a weight, or indices ``below`` a bound."""
        if below is None:
            value = torch.randn(shape, dtype=torch.float64, generator=self._generator)
            value /= math.sqrt(shape[-1]) if len(shape) > 1 else 1
        else:
            value = torch.randint(0, below, shape, generator=self._generator)
        name = f"w{len(self.params)}"
        self.params[name] = value
        self.program.params[name] = ir.Param(name)
        return self._placeholder(name, value, is_param=True)

    def call(self, op: str | Callable[..., Any], *args: Any) -> fx.Node:
        """One call; the first result of several. Values that grow are squashed."""
        target = resolve(op) if isinstance(op, str) else op
        assert target is not None, op
        node = self._rewriter.insert(target, args, before=self.program.output_node)
        with torch.no_grad():
            result = target(*fx.map_arg(args, lambda n: self.values[n]))
        return self._one(node, result)

    def _one(self, node: fx.Node, result: Any) -> fx.Node:
        if isinstance(result, Tensor):
            self.values[node] = result
            if result.dtype == torch.float64 and result.numel() and float(result.abs().max()) > LARGE:
                return self.call("tanh.default", node)
            return node
        number = self.pick(range(len(result)))
        kind = ir.value_type(node)
        assert isinstance(kind, ir.TupleType)
        element = self._rewriter.insert(
            operator.getitem, (node, number), before=self.program.output_node, type=kind.elements[number]
        )
        self.values[element] = result[number]
        return element

    def finish(self) -> None:
        """Return what nobody has used."""
        ends = [node for node in self.values if not node.users and node.op == "call_function"]
        self._rewriter.set_outputs(ends)
        ir.verify(self.program)


Step = Callable[[Builder, fx.Node], fx.Node | None]
"""One more call on a value, or None where it does not fit."""
STEPS: list[Step] = []


def step(function: Step) -> Step:
    STEPS.append(function)
    return function


def _dim(b: Builder, x: fx.Node) -> int:
    return int(b.pick(range(len(b.shape(x)))))


@step
def unary(b: Builder, x: fx.Node) -> fx.Node:
    return b.call(b.pick(("gelu", "silu", "tanh", "neg", "square", "sin", "clone")) + ".default", x)


@step
def with_number(b: Builder, x: fx.Node) -> fx.Node:
    return b.call(b.pick(("add", "mul", "sub", "div")) + ".Scalar", x, 1.5)


@step
def with_other(b: Builder, x: fx.Node) -> fx.Node | None:
    def fits(other: fx.Node) -> bool:
        pairs = zip(reversed(b.shape(x)), reversed(b.shape(other)), strict=False)
        return b.values[other].dtype == torch.float64 and all(m == n or 1 in (m, n) for m, n in pairs)

    others = [node for node in b.values if node.name not in b.program.params and fits(node)]
    return b.call(b.pick(("add.Tensor", "mul.Tensor", "sub.Tensor", "maximum.default")), x, b.pick(others))


@step
def scale_and_shift(b: Builder, x: fx.Node) -> fx.Node:
    return b.call("add.Tensor", b.call("mul.Tensor", x, b.param(b.shape(x)[-1])), b.param(b.shape(x)[-1]))


@step
def linear(b: Builder, x: fx.Node) -> fx.Node:
    width, out = b.shape(x)[-1], b.size()
    return b.call("linear.default", x, b.param(out, width), *([b.param(out)] if b.flip() else []))


@step
def fused_halves(b: Builder, x: fx.Node) -> fx.Node:
    width, out = b.shape(x)[-1], b.size()
    both = b.call("linear.default", x, b.param(2 * out, width))
    if b.flip():
        return b.call("glu.default", both, -1)
    left, right = (b.call("slice.Tensor", both, -1, low, low + out) for low in (0, out))
    return b.call("mul.Tensor", left, b.call("silu.default", right))


@step
def attend(b: Builder, x: fx.Node) -> fx.Node | None:
    if len(b.shape(x)) != 4:
        return None
    k = b.call("linear.default", x, b.param(b.shape(x)[-1], b.shape(x)[-1]))
    return b.call(torch.ops.fv.attention.default, x, k, x)


@step
def attend_by_hand(b: Builder, x: fx.Node) -> fx.Node | None:
    if len(b.shape(x)) < 3:
        return None
    scores = b.call("matmul.default", x, b.call("transpose.int", x, -2, -1))
    return b.call("matmul.default", b.call("softmax.int", scores, -1), x)


@step
def contract(b: Builder, x: fx.Node) -> fx.Node | None:
    if len(b.shape(x)) != 3:
        return None
    equation, dim = b.pick((("bsc,cd->bsd", 2), ("bsc,sd->bdc", 1), ("bsc,bd->sdc", 0)))
    return b.call("einsum.default", equation, [x, b.param(b.shape(x)[dim], b.size())])


@step
def norm(b: Builder, x: fx.Node) -> fx.Node:
    count = b.pick(range(1, min(len(b.shape(x)), 2) + 1))
    shape = list(b.shape(x)[-count:])
    if b.flip():
        return b.call("rms_norm.default", x, shape, b.param(*shape), 1e-2)
    return b.call("layer_norm.default", x, shape, b.param(*shape), b.param(*shape), 1e-2)


@step
def norm_by_hand(b: Builder, x: fx.Node) -> fx.Node:
    mean = b.call("mean.dim", b.call("pow.Tensor_Scalar", x, 2), [-1], True)
    return b.call("mul.Tensor", x, b.call("rsqrt.default", b.call("add.Scalar", mean, 1e-2)))


@step
def norm_groups(b: Builder, x: fx.Node) -> fx.Node | None:
    if len(b.shape(x)) < 3:
        return None
    groups = b.pick([g for g in range(1, b.shape(x)[1] + 1) if b.shape(x)[1] % g == 0])
    return b.call("group_norm.default", x, groups, b.param(b.shape(x)[1]), None, 1e-2)


@step
def reduce(b: Builder, x: fx.Node) -> fx.Node:
    dims, keep = [_dim(b, x)], b.flip()
    name = b.pick(("sum.dim_IntList", "mean.dim", "amax.default", "linalg_vector_norm.default", "var.correction"))
    if name.startswith("linalg"):
        return b.call(name, x, 2, dims, keep)
    if name.startswith("var"):
        keep = False
    return b.call(name, x, dims, *([keep] if keep else []))


@step
def along(b: Builder, x: fx.Node) -> fx.Node:
    dim = _dim(b, x)
    name = b.pick(("softmax.int", "cumsum.default", "flip.default", "roll.default", "topk.default", "sort.default"))
    if name == "roll.default":
        return b.call(name, x, [1], [dim])
    if name == "topk.default":
        return b.call("neg.default", _values(b, name, x, 1, dim))
    if name == "sort.default":
        return _values(b, name, x, dim)
    return b.call(name, x, [dim] if name == "flip.default" else dim)


def _values(b: Builder, name: str, *args: Any) -> fx.Node:
    """The values, not the positions."""
    found = b.call(name, *args)
    return found if b.values[found].dtype == torch.float64 else b.call("to.dtype", found, torch.float64)


@step
def split_dim(b: Builder, x: fx.Node) -> fx.Node | None:
    shape = list(b.shape(x))
    dim = _dim(b, x)
    parts = [n for n in range(2, shape[dim]) if shape[dim] % n == 0]
    if not parts or len(shape) == MOST_DIMS:
        return None
    n = b.pick(parts)
    return b.call("reshape.default", x, [*shape[:dim], n, shape[dim] // n, *shape[dim + 1 :]])


@step
def merge_dims(b: Builder, x: fx.Node) -> fx.Node | None:
    shape = list(b.shape(x))
    if len(shape) < 2:
        return None
    dim = b.pick(range(len(shape) - 1))
    return b.call("reshape.default", x, [*shape[:dim], shape[dim] * shape[dim + 1], *shape[dim + 2 :]])


@step
def permute(b: Builder, x: fx.Node) -> fx.Node:
    return b.call("permute.default", x, b.draw(st.permutations(range(len(b.shape(x))))))


@step
def unsqueeze(b: Builder, x: fx.Node) -> fx.Node | None:
    return b.call("unsqueeze.default", x, _dim(b, x)) if len(b.shape(x)) < MOST_DIMS else None


@step
def repeat(b: Builder, x: fx.Node) -> fx.Node:
    dim = _dim(b, x)
    if b.flip():
        return b.call("repeat_interleave.self_int", x, 2, dim)
    return b.call("repeat.default", x, [2 if d == dim else 1 for d in range(len(b.shape(x)))])


@step
def join(b: Builder, x: fx.Node) -> fx.Node:
    dim = _dim(b, x)
    others = [n for n in b.values if len(b.shape(n)) == len(b.shape(x)) and b.values[n].dtype == torch.float64]
    same = [
        n
        for n in others
        if n.name not in b.program.params
        and all(a == c for d, (a, c) in enumerate(zip(b.shape(n), b.shape(x), strict=True)) if d != dim)
    ]
    return b.call("cat.default", [b.pick(same), x], dim)


@step
def cut(b: Builder, x: fx.Node) -> fx.Node | None:
    dim = _dim(b, x)
    size = b.shape(x)[dim]
    if size < 2:
        return None
    at = b.pick(range(1, size))
    match b.pick(range(5)):
        case 0:
            return b.call("slice.Tensor", x, dim, 0, at)
        case 1:
            return b.call("slice.Tensor", x, dim, at, size)
        case 2:
            return b.call("split_with_sizes.default", x, [at, size - at], dim)
        case 3:
            return b.call("chunk.default", x, 2, dim)
    return b.call("select.int", x, dim, at) if len(b.shape(x)) > 1 else None


@step
def stack(b: Builder, x: fx.Node) -> fx.Node | None:
    if len(b.shape(x)) == MOST_DIMS:
        return None
    return b.call("stack.default", [x, b.call("neg.default", x)], _dim(b, x))


@step
def pad(b: Builder, x: fx.Node) -> fx.Node:
    return b.call("constant_pad_nd.default", x, [1, 2] if b.flip() else [0, 0, 2, 1] * (len(b.shape(x)) > 1))


@step
def choose(b: Builder, x: fx.Node) -> fx.Node:
    dim = _dim(b, x)
    return b.call("index_select.default", x, dim, b.param(b.size(), below=b.shape(x)[dim]))


@step
def look_up(b: Builder, x: fx.Node) -> fx.Node:
    dim = _dim(b, x)
    indices = [None] * dim + [b.param(b.size(), below=b.shape(x)[dim])]
    return b.call("index.Tensor", x, indices)


@step
def mask(b: Builder, x: fx.Node) -> fx.Node:
    positive = b.call("gt.Scalar", x, 0.0)
    if b.flip():
        return b.call("masked_fill.Scalar", x, positive, -1.0)
    return b.call("where.self", positive, x, b.call("neg.default", x))


@step
def rotate(b: Builder, x: fx.Node) -> fx.Node | None:
    shape = b.shape(x)
    if shape[-1] % 2 or len(shape) == MOST_DIMS:
        return None
    pairs = b.call("reshape.default", x, [*shape[:-1], shape[-1] // 2, 2])
    numbers = b.call("view_as_complex.default", b.call("contiguous.default", pairs))
    turned = b.call("mul.Tensor", numbers, b.call("view_as_complex.default", b.param(shape[-1] // 2, 2)))
    return b.call("reshape.default", b.call("view_as_real.default", turned), list(shape))


@step
def convolve(b: Builder, x: fx.Node) -> fx.Node | None:
    shape = b.shape(x)
    if len(shape) != 3 or shape[2] < 2:
        return None
    if b.flip() and shape[2] % 2 == 0:  # patches: nothing overlaps
        return b.call("conv1d.default", x, b.param(b.size(), shape[1], 2), None, [2])
    return b.call("conv1d.default", x, b.param(b.size(), shape[1], 3), None, [1], [1])


@st.composite
def builders(draw: Draw, most: int = 8) -> Builder:
    """A finished program of up to ``most`` random steps on one or two inputs."""
    b = Builder(draw, draw(st.integers(0, 2**16)))
    shape = [b.size() for _ in range(draw(st.integers(2, 4)))]
    pool = [b.call("tanh.default", b.input(*shape))]
    if b.flip():
        pool.append(b.call("tanh.default", b.input(*shape[:-1], b.size())))
    for _ in range(draw(st.integers(2, most))):
        x = b.pick(pool[-3:])
        made = b.pick(STEPS)(b, x)
        if made is not None and 0 < b.values[made].numel() <= MOST_ELEMENTS and b.shape(made):
            pool.append(made)
    b.finish()
    return b
