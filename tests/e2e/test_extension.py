"""What others add with ``register_op`` and ``register_pass`` takes part in planning; mistakes are told at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastvideo
import fastvideo_ir as ir
from fastvideo import extension
from fastvideo.extension import register_op
from fastvideo.passes import registry
from fastvideo_ir.errors import InvalidArgumentError

from . import toy
from .measuring import errors_of


@torch.library.custom_op("e2etest::gate", mutates_args=())
def gate(x: Tensor, strength: Tensor) -> Tensor:
    return x * torch.sigmoid(strength)


@gate.register_fake
def _(x: Tensor, strength: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("e2etest::running_sum", mutates_args=())
def running_sum(x: Tensor) -> Tensor:
    return x.cumsum(1)


@running_sum.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("e2etest::mix", mutates_args=())
def mix(x: Tensor, y: Tensor) -> Tensor:
    return x * y


@mix.register_fake
def _(x: Tensor, y: Tensor) -> Tensor:
    return torch.empty_like(x)


register_op(torch.ops.e2etest.gate.default, "b s c, c -> b s c")
register_op(torch.ops.e2etest.running_sum.default, "b [s] c -> b [s] c", flops=lambda x: 7 * x[0] * x[1] * x[2])
extension._homes.pop(__name__, None)  # other tests' workers need not import this file


class WithOps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = toy.build(1)
        self.strength = nn.Parameter(torch.randn(6))

    def forward(self, **given: Any) -> Tensor:
        sample = self.inner(**given, return_dict=False)[0]
        return torch.ops.e2etest.running_sum(torch.ops.e2etest.gate(sample, self.strength))


@pytest.fixture(scope="module")
def compiled() -> Iterator[fastvideo.CompiledModel]:
    with fastvideo.compile(WithOps().eval(), 2, executor="simulated", device="cpu") as made:
        made(**toy.inputs(0))
        yield made


def result_of(program: ir.Program, op: Any) -> str:
    return next(str(ir.tensor_type(node)) for node in program.nodes if node.target is op)


def test_registered_op_is_sharded_as_its_rule_allows(compiled: fastvideo.CompiledModel) -> None:
    (program,) = compiled.programs
    assert result_of(program, torch.ops.e2etest.gate.default) == "f32[1, 30@sp, 6]"
    assert "30@sp" not in result_of(program, torch.ops.e2etest.running_sum.default)
    node = next(node for node in program.nodes if node.target is torch.ops.e2etest.running_sum.default)
    op = ir.ops.of(node)
    assert op is not None
    assert op.flops is not None
    assert op.flops(node) == 7 * 30 * 6


def test_registered_op_computes_the_same_on_ranks(compiled: fastvideo.CompiledModel) -> None:
    model = compiled._model
    with torch.no_grad():
        expected = model(**toy.inputs(1))
    assert max(errors_of([compiled(**toy.inputs(1))], [expected])) <= 1e-5


@pytest.mark.parametrize(
    ("op", "rule", "message"),
    [
        (torch.ops.e2etest.gate.default, "b s c, c -> b s c", "is registered already"),
        (torch.ops.aten.linear.default, "b s c -> b s c", "is registered already"),
        (torch.ops.e2etest.gate, "b s c -> b s c", "is no op overload; expected e.g. torch.ops.mylib.scan.default"),
        (torch.ops.aten.renorm.default, "b s c", "cannot read rule 'b s c'; expected e.g."),
        (torch.ops.aten.renorm.default, "b s c ->", "cannot read rule"),
        (torch.ops.aten.renorm.default, "b 2 -> b 2", "'2' in rule 'b 2 -> b 2' is not the name of a dim"),
        (torch.ops.aten.renorm.default, "b [s -> b s", "'[s' in rule"),
        (torch.ops.aten.renorm.default, "b s -> b t", "dim 't' of the result in rule 'b s -> b t' is in no operand"),
        (torch.ops.aten.renorm.default, "b [s] -> b s", "'s' is written with and without brackets in rule"),
    ],
    ids=str,
)
def test_rule_that_cannot_be_meant_is_refused(op: Any, rule: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        register_op(op, rule)
    assert message in str(caught.value)


def test_registered_pass_with_options_runs_where_it_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ir.Stage]] = []
    monkeypatch.setattr(registry, "_registered", {})

    @fastvideo.register_pass
    class Look(fastvideo.Pass):
        name = "look"
        joins = fastvideo.Stage.COMMUNICATING

        times: int = 1

        def run(self, program: fastvideo.Program) -> None:
            seen.append((self.times, program.stage))

    with fastvideo.compile(toy.build(1), 2, executor="simulated", device="cpu", passes="default,look{times=3}") as made:
        made(**toy.inputs())
        assert [name for name, _ in made.report.programs[0].pass_seconds][-1] == "look{times=3}"
    assert seen == [(3, ir.Stage.COMMUNICATING)]


def test_dims_of_one_name_and_two_sizes_are_refused_when_the_op_is_met() -> None:
    register_op(torch.ops.e2etest.mix.default, "b s, b s -> b s")
    extension._homes.pop(__name__, None)

    class Mixes(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.ops.e2etest.mix(x, y)

    made = fastvideo.compile(Mixes().eval(), 2, executor="simulated", device="cpu")
    with made, pytest.raises(InvalidArgumentError) as caught:
        made(torch.ones(4, 6), torch.ones(4, 1))
    assert str(caught.value) == (
        "dim 's' in the rule of e2etest.mix.default has two sizes, 6 and 1 (give them two names)"
    )


def test_op_of_a_notebook_is_refused_for_processes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "_nowhere", {torch.ops.e2etest.gate.default: "op gate"})
    made = fastvideo.compile(WithOps().eval(), 2, executor="mp", device="cpu")
    with made, pytest.raises(InvalidArgumentError, match="op gate is defined in a notebook or on stdin"):
        made(**toy.inputs())
    with fastvideo.compile(WithOps().eval(), 2, executor="simulated", device="cpu") as made:
        made(**toy.inputs())


@pytest.mark.parametrize("thing", [int, 3])
def test_what_is_no_backend_is_refused(thing: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"is not a subclass of fastvideo.AttentionBackend"):
        fastvideo.register_attention_backend(thing)
