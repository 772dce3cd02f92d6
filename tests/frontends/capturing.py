"""What the capture tests share."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import fastvideo_ir as ir
from fastvideo.frontends.capture import Captured, capture


def run(captured: Captured, *args: Any, **kwargs: Any) -> Any:
    """Call the captured program like the model."""
    flat = captured.call.flatten(args, kwargs)
    with torch.no_grad():
        return captured.call.unflatten(ir.interpreter.evaluate(captured.program, captured.params, flat))


def targets(captured: Captured) -> list[str]:
    return [str(node.target) for node in captured.program.nodes if node.op == "call_function"]


def module(forward: Callable[..., Any], **members: Any) -> nn.Module:
    """An eval-mode module with this ``forward`` (whose first argument is the module) and these members."""
    torch.manual_seed(0)
    made = type("Toy", (nn.Module,), {"forward": forward, "__module__": __name__})()
    for name, member in members.items():
        setattr(made, name, member)
    return made.eval()


def capture_toy(forward: Callable[..., Any], *args: Any, members: dict[str, Any] | None = None) -> Captured:
    return capture(module(forward, **(members or {})), args, {})


def assert_same(result: Any, expected: Any) -> None:
    """Equal structure, types, and tensors bit for bit."""
    assert type(result) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert result.dtype == expected.dtype
        assert torch.equal(result, expected)
    elif isinstance(expected, dict):
        assert list(result) == list(expected)
        for key in expected:
            assert_same(result[key], expected[key])
    elif isinstance(expected, (tuple, list)):
        assert len(result) == len(expected)
        for left, right in zip(result, expected, strict=True):
            assert_same(left, right)
    else:
        assert result == expected


def assert_well_formed(captured: Captured) -> None:
    """What every captured program keeps to, whatever the strategy."""
    program = captured.program
    assert program.stage is ir.Stage.CAPTURED
    placeholders = program.graph.find_nodes(op="placeholder")
    assert placeholders == program.param_nodes + program.input_nodes
    assert {param.source for param in program.params.values()} <= set(captured.params)
    for node in program.nodes:
        assert set(node.meta) == {"fv"}
        if node.op == "output":
            continue
        assert isinstance(ir.value_type(node), (ir.TensorType, ir.TupleType))
        if node.op == "call_function":
            assert node.users or _is_random(node), f"{node} is dead"
            assert node.target in (operator.getitem, ir.dialect.eager_call) or not node.target._schema.is_mutable
            assert "assert" not in str(node.target)
            assert "pin_memory" not in node.kwargs
            assert all(value == ir.DEVICE for value in node.kwargs.values() if isinstance(value, torch.device))
            assert not any(isinstance(value, torch.device) and value != ir.DEVICE for value in node.args)


def _is_random(node: torch.fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
