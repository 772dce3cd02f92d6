"""Ring attention: exact however the keys are cut, no rank does another's work, and only keys and values travel."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, flop_registry

import fastvideo_ir as ir
from fastvideo.backends import attention
from fastvideo.passes.localize import localize
from fastvideo.passes.plan_sharding import PlanSharding
from fastvideo.passes.planner.cost import CostModel, Hardware, Work
from fastvideo_ir.errors import BackendUnavailableError, ShardingError, VerificationError
from fastvideo_ir.ops.attention import is_ring
from fastvideo_ir.ops.ring import attention_with_lse, merge_attention
from fastvideo_ir.pending import Pending

from . import test_plan_sharding
from .running import CPU, assert_close, collectives, passes_of, program, random_values, run_passes, run_ranks, run_whole

LOWERED = "insert-reshards,expand-statistics,lower-reshards,pack-collectives"
PLANNED = f"plan-sharding,{LOWERED}"


def site(
    q: str, k: str, result: str, mesh: str, mask: str = "", arguments: str = "", op: str = "fv.attention"
) -> ir.Program:
    """One attention whose operands arrive whole. Types are written with placements."""

    def whole(kind: str) -> str:
        return str(ir.types.parse_type(kind).unplaced)  # type: ignore[union-attr]

    kinds = {"q": q, "k": k, "v": k, **({"m": mask} if mask else {})}
    lines = [f"%{name}0 : {whole(kind)} = input" for name, kind in kinds.items()]
    lines += [f"%{name} : {kind} = fv.reshard(%{name}0)" for name, kind in kinds.items()]
    operands = ", ".join(f"%{name}" for name in kinds)
    lines.append(f"%a : {result} = {op}({operands}{', ' + arguments if arguments else ''})")
    lines.append(f"%y : {whole(result)} = fv.reshard(%a)")
    return program("\n".join([*lines, "return (%y)"]), stage="placed", mesh=mesh)


SELF = "f64[1, 4, 13@ring, 8]"
CASES = {
    "uneven": (SELF, SELF, SELF, "ring=4", "", ""),
    "fewer tokens than ranks": ("f64[1, 2, 3@ring, 8]",) * 3 + ("ring=5", "", ""),
    "scale": (SELF, SELF, SELF, "ring=3", "", "None, 0.3"),
    "grouped heads": (SELF, "f64[1, 2, 13@ring, 8]", SELF, "ring=3", "", ""),
    "other lengths": (SELF, "f64[1, 4, 5@ring, 8]", SELF, "ring=3", "", ""),
    "joint sequence": ("f64[1, 4, 3+10@ring, 8]",) * 3 + ("ring=4", "", ""),
    "joint sequence, masked": ("f64[1, 4, 3+10@ring, 8]",) * 3 + ("ring=4", "f64[1, 1, 3+10@ring, 13]", ""),
    "boolean mask": (SELF, SELF, SELF, "ring=4", "bool[1, 4, 13@ring, 13]", ""),
    "mask of keys": (SELF, SELF, SELF, "ring=3", "f64[1, 1, 1, 13]", ""),
    "mask of queries": (SELF, SELF, SELF, "ring=3", "f64[1, 1, 13@ring, 1]", ""),
    "heads over another axis": ("f64[1, 4@sp, 13@ring, 8]",) * 3 + ("sp=2, ring=2", "", ""),
    "batch over another axis": ("f64[2@cfg, 4, 13@ring, 8]",) * 3 + ("cfg=2, ring=3", "bool[2@cfg, 1, 1, 13]", ""),
}


@pytest.mark.parametrize("name", CASES)
def test_ring_is_exact(name: str) -> None:
    before = site(*CASES[name])
    after = run_passes(before, LOWERED)
    assert sum(is_ring(node) for node in after.nodes) == 1
    assert not any(op in collectives(after) for op in ("all_to_all", "reduce_scatter", "all_reduce"))
    values = random_values(before)
    expected = run_whole(before, values)
    for outputs in run_ranks(after, values):
        assert_close(outputs, expected, 1e-12)


@pytest.mark.parametrize("backend", ["torch_sdpa", "flash_attn"])
def test_backends_that_tell_their_log_sum_exp_run_rings(backend: str) -> None:
    before = site(SELF, SELF, SELF, "ring=3", op=f"fv_attn.{backend}")
    after = run_passes(before, LOWERED)
    assert f"fv_attn.{backend}_ring" in ir.print_program(after)
    values = random_values(before)
    for outputs in run_ranks(after, values):
        assert_close(outputs, run_whole(before, values), 1e-12)


def test_half_precision_is_merged_in_single_precision() -> None:
    kind = "bf16[1, 2, 64@ring, 8]"
    before = site(kind, kind, kind, "ring=8")
    local = localize(run_passes(before, LOWERED), 0)
    merges = [node for node in local.nodes if node.target is ir.ops.ring.merge_op]
    assert len(merges) == 7
    assert {str(ir.value_type(node)) for node in merges} == {"(f32[1, 2, 8, 8], f32[1, 2, 8])"}
    values = random_values(before)
    for outputs in run_ranks(run_passes(before, LOWERED), values):
        assert_close(outputs, run_whole(before, values), 1e-2)


def test_query_that_sees_no_key_of_a_piece_or_none_at_all_stays_finite() -> None:
    q, k, v = (torch.randn(1, 2, 4, 8, dtype=torch.float64) for _ in "qkv")
    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    mask[..., 0, :2] = False
    mask[..., 1, :] = False
    pieces = [attention_with_lse(q, k[:, :, at], v[:, :, at], mask[..., at], None, False) for at in ([0, 1], [2, 3])]
    out, lse = merge_attention(*pieces[0], *pieces[1])
    whole, whole_lse = attention_with_lse(q, k, v, mask, None, False)
    torch.testing.assert_close(out, whole, rtol=0, atol=1e-13)
    torch.testing.assert_close(lse, whole_lse, rtol=0, atol=1e-13)
    assert bool((out[:, :, 1] == 0).all()) and bool((lse[:, :, 1] == -torch.inf).all())


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kv_heads", [6, 2])
def test_plain_form_is_softmax_attention(causal: bool, kv_heads: int) -> None:
    q = torch.randn(2, 6, 5, 8, dtype=torch.float64)
    k, v = (torch.randn(2, kv_heads, 9, 8, dtype=torch.float64) for _ in "kv")
    out, lse = attention_with_lse(q, k, v, None, 0.4, causal)
    exact = torch.nn.functional.scaled_dot_product_attention(q, k, v, None, 0.0, causal, scale=0.4, enable_gqa=True)
    torch.testing.assert_close(out, exact, rtol=0, atol=1e-13)
    scores = 0.4 * q @ k.repeat_interleave(6 // kv_heads, 1).transpose(-2, -1)
    seen = torch.ones(5, 9, dtype=torch.bool).tril() if causal else torch.ones(5, 9, dtype=torch.bool)
    torch.testing.assert_close(lse, scores.masked_fill(~seen, -torch.inf).logsumexp(-1), rtol=0, atol=1e-13)


def flops_per_rank(call: Callable[[], Any]) -> Counter[int | None]:
    found: Counter[int | None] = Counter()

    def watched(formula: Callable[..., int]) -> Callable[..., int]:
        def count(*args: Any, **kwargs: Any) -> int:
            found[ir.interpreter.current_rank()] += (flops := formula(*args, **kwargs))
            return flops

        count._get_raw = True  # type: ignore[attr-defined]
        return count

    with FlopCounterMode(display=False, custom_mapping={op: watched(f) for op, f in flop_registry.items()}):
        call()
    return found


def test_work_is_divided_and_only_keys_and_values_travel() -> None:
    before = test_plan_sharding.attention(1, 61, 3, "ring=4")
    after = run_passes(before, PLANNED)
    values = random_values(before)
    whole = flops_per_rank(lambda: run_whole(before, values))[None]
    per_rank = flops_per_rank(lambda: run_ranks(after, values))
    del per_rank[None]  # shapes are inferred while programs are verified
    assert sum(per_rank.values()) == whole
    assert max(per_rank.values()) <= 1.06 * whole / 4  # 16 of 61 tokens
    assert collectives(after) == ["all_gather"]  # the result
    key = next(ir.tensor_type(node) for node in after.nodes if node.name == "kh")
    for rank in range(4):
        local = localize(after, rank)
        received = sum(sum(node.args[3]) for node in local.nodes if node.target is ir.dialect.exchange)  # type: ignore[arg-type]
        mine = math.prod(key.local_shape(after.mesh, after.mesh.coordinates(rank)))
        assert received == 2 * (key.numel - mine)


def test_next_piece_is_under_way_before_the_one_in_hand_is_computed_with() -> None:
    local = localize(run_passes(site(SELF, SELF, SELF, "ring=4"), LOWERED), 2)
    chunk = torch.ops.fv.attention_lse.default
    order = [
        "exchange" if n.target is ir.dialect.exchange else "attend"
        for n in local.nodes
        if n.target in (ir.dialect.exchange, chunk)
    ]
    assert order == ["exchange", "attend"] * 3 + ["attend"]


class Watching:
    """Ranks alone, who get back what they send; keeps the order of what happens."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def exchange(self, axis: str, send: Tensor, sent: list[int], received: list[int]) -> Pending:
        self.events.append("start")
        return Pending(send.clone(), lambda: self.events.append("finish"), send)


def test_transfer_is_awaited_where_its_result_is_read() -> None:
    watching = Watching()

    @torch.library.custom_op("fvtest::computes", mutates_args=())
    def computes(x: Tensor) -> Tensor:
        watching.events.append("compute")
        return x + 1

    made = ir.parse_program(
        """
        program stage=local mesh=(sp=2) rank=0 {
          %x : f32[4] = input
          %sent : f32[4] = fv.exchange(%x, "sp", [0, 4], [0, 4])
          %never : f32[4] = fv.exchange(%x, "sp", [0, 4], [0, 4])
          %y : f32[4] = fvtest.computes.default(%x)
          %z : f32[4] = aten.add.Tensor(%y, %sent)
          return (%z)
        }"""
    )
    ones = torch.ones(4)
    (z,) = ir.interpreter.run_rank(made, {}, [ones], watching, CPU)  # type: ignore[arg-type]
    assert torch.equal(z, 3 * ones)
    assert watching.events == ["start", "start", "compute", "finish", "finish"]


def test_verifier_wants_keys_that_are_spread_to_travel() -> None:
    text = """
        %q : f32[1, 2, 8@ring, 4] = input pinned(ring)
        %a : f32[1, 2, 8@ring, 4] = {}
        %row : (f32[1, 2, 8, 4]) = fv.all_gather([%a], "ring")
        %y : f32[1, 2, 8, 4] = getitem(%row, 0)
        return (%y)"""
    program(text.format('fv.attention_ring(%q, %q, %q, None, None, False, "ring")'), "communicating", "ring=2")
    for wrong in ("fv.attention(%q, %q, %q)", 'fv.attention_ring(%q, %q, %q, None, None, False, "sp")'):
        with pytest.raises(VerificationError, match=r"\[exchange\] %a: ranks exchange over"):
            program(text.format(wrong), "communicating", "ring=2")


class Silent(attention.AttentionBackend):
    """Tells no log-sum-exp."""

    name = "SILENT_TEST"

    def supports(self, site: attention.AttentionSite) -> attention.Support:
        return attention.Yes()

    def run(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool) -> Tensor:
        return self.reference(q, k, v, mask, scale, causal)


attention.register(Silent())
SILENT = attention.registry._registered.pop(Silent.name)


def register_silent(monkeypatch: pytest.MonkeyPatch) -> str:
    """For one test alone, apart from its op, which torch keeps."""
    listed = {**attention.registry._registered, Silent.name: SILENT}
    monkeypatch.setattr(attention.registry, "_registered", listed)
    return Silent.name


def test_backend_without_a_log_sum_exp_refuses_rings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    named = f"select-attention-backend{{backend={register_silent(monkeypatch)}}}"
    assert "fv_attn.silent_test" in ir.print_program(run_passes(test_plan_sharding.attention(1, 61, 3, "sp=3"), named))
    before = test_plan_sharding.attention(1, 61, 3, "ring=3")
    with pytest.raises(BackendUnavailableError) as caught:
        run_passes(before, named)
    assert "it tells no log-sum-exp, by which a ring merges its pieces" in str(caught.value)
    assert "silent" not in ir.print_program(run_passes(before, "select-attention-backend"))


def test_keys_are_gathered_where_neither_heads_can_be_cut_nor_keys_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = register_silent(monkeypatch)
    for backend, wanted in ((silent, ["all_gather", "all_gather"]), ("TORCH_SDPA", ["all_gather"])):
        passes = f"select-attention-backend{{backend={backend}}},{PLANNED}"
        after = run_passes(test_plan_sharding.attention(1, 301, 5, "sp=4"), passes)
        assert collectives(after) == wanted
        assert any(map(is_ring, after.nodes)) == (backend != silent)


@pytest.mark.parametrize(
    ("dtype", "mask", "travels"), [("bf16", "", True), ("f32", "", False), ("bf16", ", %m", False)]
)
def test_keys_travel_on_a_gpu_only_where_a_kernel_tells_its_log_sum_exp(dtype: str, mask: str, travels: bool) -> None:
    text = ir.print_program(test_plan_sharding.attention(1, 4099, 5, "sp=4", head_dim=64)).replace("f32", dtype)
    text = text.replace("fv.attention(%qh, %kh, %vh)", f"fv_attn.torch_sdpa(%qh, %kh, %vh{mask})")
    before = ir.parse_program(text.replace("= input", "= input\n  %m : bool[1, 1, 1, 4099] = input"))
    for device, expected in (("cpu", True), ("cuda", travels)):
        steps = [PlanSharding(device=device), *passes_of(LOWERED)]
        assert any(map(is_ring, run_passes(before, steps).nodes)) == expected


def test_causal_attention_is_refused_on_a_ring() -> None:
    before = test_plan_sharding.attention(1, 61, 3, "ring=3")
    for node in before.nodes:
        if node.name == "a":
            node.args = (*node.args, None, None, True)
    with pytest.raises(ShardingError) as caught:
        run_passes(before, PLANNED)
    assert "axis 'ring' cannot divide %a" in str(caught.value) and "causal" in str(caught.value)


def test_ring_costs_the_longer_of_compute_and_transfer_per_step() -> None:
    rates = Hardware(matmul_flops=1e12, memory_bandwidth=1e15, link_bandwidth=1e9, latency=1e-3)
    kind = "bf16[1, 1, 8@ring, 4]"
    made = site(kind, kind, kind, "ring=4")
    node = next(n for n in made.nodes if n.name == "a")
    strategy = ir.verifier.strategy_of(
        ir.verifier.rule_of(node),
        tuple(ir.tensor_type(o) for o in node.all_input_nodes),
        (ir.tensor_type(node),),
        "ring",
    )
    assert strategy is not None and strategy.travelling == (1, 2)
    model = CostModel(rates, made.mesh, "ring", frozenset())

    def seconds(flops: float, size: int) -> float:
        return model.compute(Work(int(flops), 1e12, (0, size, size), (0,), 1e15), strategy)

    # 16 s of work are 4 s a rank, 1 s a step, and slower by the ring; 2 GB of keys and values are 0.5 s a step.
    assert seconds(16e12, 10**9) == pytest.approx(4 / 0.93 + 3e-3)
    assert seconds(0.0, 10**9) == pytest.approx(3 * (0.5 + 1e-3))
