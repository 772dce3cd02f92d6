"""``fuse-norm-rotary`` and ``fuse-modulated-norm`` on what models write: every style is found, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastvideo_ir as ir
from fastvideo.backends import fused
from fastvideo.frontends.capture import capture
from fastvideo.passes.fuse_modulated_norm import FuseModulatedNorm
from fastvideo.passes.fuse_norm_rotary import FuseNormRotary
from fastvideo.passes.pipelines import Target, default_pipeline, resolve_pipeline

from .running import RankRun, count

TOKENS, HEADS, HEAD_DIM = 12, 4, 8
FUSIONS = [FuseNormRotary(), FuseModulatedNorm()]
Rotation = Callable[[Tensor, Tensor], Tensor]


def halves_added(x: Tensor, angles: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    twice = torch.cat([angles, angles], -1)
    return x * twice.cos() + torch.cat([-b, a], -1) * twice.sin()


def halves_apart(x: Tensor, angles: Tensor) -> Tensor:
    a, b = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos * a - sin * b, sin * a + cos * b], -1)


def neighbours_added(x: Tensor, angles: Tensor) -> Tensor:
    a, b = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
    twice = angles.repeat_interleave(2, -1)
    rotated = torch.stack([-b, a], -1).flatten(-2)
    return (x.float() * twice.cos() + rotated.float() * twice.sin()).to(x.dtype)


def neighbours_in_place(x: Tensor, angles: Tensor) -> Tensor:
    out, cos, sin = torch.empty_like(x), angles.cos(), angles.sin()
    out[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
    out[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
    return out


def complex_numbers(x: Tensor, angles: Tensor) -> Tensor:
    turned = torch.view_as_complex(x.double().reshape(*x.shape[:-1], -1, 2)) * torch.polar(
        torch.ones_like(angles, dtype=torch.float64), angles.double()
    )
    return torch.view_as_real(turned).flatten(-2).type_as(x)


class Attention(nn.Module):
    """Self-attention over tokens whose queries and keys are normalized and turned."""

    def __init__(self, rotation: Rotation, joint: bool, handwritten: bool, heads_first: bool) -> None:
        super().__init__()
        width = HEADS * HEAD_DIM
        self.rotation, self.joint, self.handwritten, self.heads_first = rotation, joint, handwritten, heads_first
        self.qkv = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.weight = nn.Parameter(torch.rand(width if joint else HEAD_DIM) + 0.5)

    def norm(self, x: Tensor) -> Tensor:
        if not self.handwritten:
            return F.rms_norm(x, x.shape[-1:], self.weight, 1e-6)
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * self.weight

    def prepared(self, x: Tensor, angles: Tensor) -> Tensor:
        x = self.norm(x).unflatten(-1, (HEADS, -1)) if self.joint else self.norm(x.unflatten(-1, (HEADS, -1)))
        if self.heads_first:
            return self.rotation(x.transpose(1, 2), angles[:, None])
        return self.rotation(x, angles[:, :, None]).transpose(1, 2)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        q, k, v = (layer(x) for layer in self.qkv)
        heads = v.unflatten(-1, (HEADS, -1)).transpose(1, 2)
        out = F.scaled_dot_product_attention(self.prepared(q, angles), self.prepared(k, angles), heads)
        return out.transpose(1, 2).flatten(2)


def planned(model: nn.Module, inputs: tuple[Any, ...], mesh: ir.Mesh | None = None) -> tuple[ir.Program, Any]:
    captured = capture(model.eval(), inputs, {}, verify=False)
    if mesh is not None:
        captured.program.mesh = mesh
    ir.run_passes(captured.program, default_pipeline(Target(mesh.num_ranks if mesh else 1)))
    return captured.program, captured


def fused_program(program: ir.Program) -> ir.Program:
    after = program.copy()
    ir.run_passes(after, FUSIONS)
    ir.verify(after)
    return after


def assert_equal(after: ir.Program, captured: Any, model: nn.Module, inputs: tuple[Any, ...]) -> None:
    with torch.no_grad():
        (found,), wanted = ir.interpreter.evaluate(after, captured.params, list(inputs)), model(*inputs)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("rotation", "joint", "handwritten", "heads_first"),
    [
        (halves_added, False, False, True),
        (halves_apart, False, True, False),
        (neighbours_added, False, True, True),
        (neighbours_in_place, True, False, False),
        (complex_numbers, True, True, False),
    ],
)
def test_norm_and_rotation_of_every_style_become_one_op(
    rotation: Rotation, joint: bool, handwritten: bool, heads_first: bool
) -> None:
    model = Attention(rotation, joint, handwritten, heads_first)
    inputs = torch.randn(2, TOKENS, HEADS * HEAD_DIM), torch.rand(2, TOKENS, HEAD_DIM // 2) * 6
    program, captured = planned(model, inputs)
    after = fused_program(program)
    assert count(after, fused.norm_rotary_op) == 2
    names = {ir.ops.target_name(node.target) for node in after.nodes if node.op == "call_function"}
    assert not names & {"aten.rms_norm.default", "aten.rsqrt.default", "aten.stack.default"}
    assert_equal(after, captured, model, inputs)


def mixed_pairs(x: Tensor, angles: Tensor) -> Tensor:
    """Taken apart as neighbours, put together as halves."""
    a, b = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


def reflected(x: Tensor, angles: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([a * angles.cos() + b * angles.sin(), a * angles.sin() + b * angles.cos()], -1)


def other_angles(x: Tensor, angles: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * (2 * angles).sin()], -1)


@pytest.mark.parametrize("rotation", [mixed_pairs, reflected, other_angles], ids=lambda rotation: rotation.__name__)
def test_what_is_no_rotation_of_pairs_stays(rotation: Rotation) -> None:
    model = Attention(rotation, False, False, False)
    inputs = torch.randn(1, TOKENS, HEADS * HEAD_DIM), torch.rand(1, TOKENS, HEAD_DIM // 2)
    program, captured = planned(model, inputs)
    after = fused_program(program)
    assert count(after, fused.norm_rotary_op) == 0
    assert_equal(after, captured, model, inputs)


class NormIsRead(Attention):
    """What was normalized is read beside its rotation."""

    def prepared(self, x: Tensor, angles: Tensor) -> Tensor:
        normal = self.norm(x.unflatten(-1, (HEADS, -1)))
        return (self.rotation(normal, angles[:, :, None]) + 0 * normal.mean()).transpose(1, 2)


def test_norm_that_others_read_stays() -> None:
    model = NormIsRead(halves_added, False, False, False)
    inputs = torch.randn(1, TOKENS, HEADS * HEAD_DIM), torch.rand(1, TOKENS, HEAD_DIM // 2)
    program, captured = planned(model, inputs)
    after = fused_program(program)
    assert count(after, fused.norm_rotary_op) == 0 and count(after, torch.ops.aten.rms_norm.default) == 2
    assert_equal(after, captured, model, inputs)


class Modulated(nn.Module):
    """Two sublayers, each with a gated residual and a modulated norm in fp32 before it."""

    WIDTH = 1032

    def __init__(self, rms: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(self.WIDTH, self.WIDTH), nn.Linear(self.WIDTH, self.WIDTH)
        self.rms = rms

    def norm(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        wide = x.float()
        if self.rms:
            normal = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        else:
            normal = F.layer_norm(wide, wide.shape[-1:], None, None, 1e-6)
        return (normal * (1 + scale) + shift).to(x.dtype)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        scale, shift, gate = modulation.chunk(3, 1)
        x = (x.float() + self.first(self.norm(x, scale, shift)) * gate).to(x.dtype)
        out: Tensor = x + self.second(self.norm(x, shift, scale))
        return out


@pytest.mark.parametrize("rms", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_modulated_norms_and_their_residual_become_two_ops(rms: bool, dtype: torch.dtype) -> None:
    model = Modulated(rms).eval()
    half = Modulated(rms).eval().to(dtype)
    half.load_state_dict(model.state_dict())
    model.load_state_dict(half.state_dict())  # the same weights in both precisions
    inputs = torch.randn(1, 64, Modulated.WIDTH).to(dtype), torch.randn(1, 3, Modulated.WIDTH)
    program, captured = planned(half, inputs)
    after = fused_program(program)
    assert (count(after, fused.modulated_norm_op), count(after, fused.add_norm_op)) == (1, 1)
    assert count(after, torch.ops.aten.layer_norm.default) == count(after, torch.ops.aten.rsqrt.default) == 0
    with torch.no_grad():
        exact = model(inputs[0].float(), inputs[1])
        (found,), eager = ir.interpreter.evaluate(after, captured.params, list(inputs)), half(*inputs)
    errors = [float((value.float() - exact).norm() / exact.norm()) for value in (found, eager)]
    assert errors[0] <= 1.1 * errors[1] + 1e-6


class Double(Modulated):
    """What is normalized goes on in double precision, which the kernels do not compute in."""

    def norm(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        wide = F.layer_norm(x, x.shape[-1:], None, None, 1e-6).double()
        return (wide @ torch.eye(self.WIDTH, dtype=torch.float64)).to(x.dtype)


def test_double_precision_is_not_computed_in_single() -> None:
    program, _ = planned(Double(False), (torch.randn(1, 64, Modulated.WIDTH), torch.randn(1, 3, Modulated.WIDTH)))
    after = fused_program(program)
    assert count(after, fused.modulated_norm_op) == count(after, fused.add_norm_op) == 0


def test_tokens_in_pieces_keep_their_fused_norms() -> None:
    model = Attention(neighbours_added, True, False, False)
    inputs = torch.randn(2, TOKENS, HEADS * HEAD_DIM), torch.rand(2, TOKENS, HEAD_DIM // 2) * 6
    program, captured = planned(model, inputs, ir.Mesh((("sp", 3),)))
    after = fused_program(program)
    assert count(after, fused.norm_rotary_op) == 2
    assert any(ir.tensor_type(node).placed_axes for node in after.nodes if node.target is fused.norm_rotary_op)
    params = {param.source: captured.params[param.key] for param in after.params.values()}
    with torch.no_grad():
        wanted = model(*inputs)
        for (found,) in RankRun(after, (params, list(inputs))).outputs():
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_norms_are_fused_where_there_are_kernels() -> None:
    names = [step.name for step in default_pipeline(Target(ranks=2, device="cuda"))]
    assert names.index("pack-collectives") < names.index("fuse-norm-rotary") < names.index("fuse-modulated-norm")
    without = resolve_pipeline("default,-fuse-norm-rotary,-fuse-modulated-norm", Target(ranks=2, device="cuda"))
    for steps in (without, default_pipeline(Target(ranks=2, device="cpu"))):
        assert not {"fuse-norm-rotary", "fuse-modulated-norm"} & {step.name for step in steps}
