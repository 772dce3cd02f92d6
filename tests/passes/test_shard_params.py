"""``shard-params``: each rank holds its part of the weights alone, and gathers a block's in one exchange."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

import fastvideo
import fastvideo_ir as ir
from fastvideo import Parallel
from fastvideo.passes.analysis import predict_memory, weight_bytes
from fastvideo.passes.localize import localize
from fastvideo.passes.shard_params import ShardParams
from fastvideo_ir.errors import InvalidArgumentError

from ..e2e import toy
from ..e2e.measuring import errors_of
from .running import assert_same_numbers, program, run_passes
from .test_plan_sharding import PLANNED, attention

DEPTH = 6


def matrix_bytes(params: Iterable[Tensor]) -> int:
    """Bytes of what is worth sharding."""
    return sum(param.numel() * param.element_size() for param in params if sum(size > 1 for size in param.shape) > 1)


def peak_bytes(program: ir.Program) -> int:
    return predict_memory(program, device="cpu").total


def gathers(program: ir.Program) -> list[int]:
    """How many params each exchange of the pass takes."""
    nodes = [node for node in program.nodes if node.target is ir.dialect.all_gather]
    made = [node for node in nodes if (by := ir.info(node).provenance) and by.by == ShardParams.name]
    return [len(node.all_input_nodes) for node in made]


@pytest.mark.parametrize("executor", ["simulated", "mp"])
def test_ranks_hold_a_piece_each_and_compute_the_same(executor: str) -> None:
    model = toy.build(DEPTH).double()
    values = {**toy.inputs(), "return_dict": False}
    values["x"], values["context"] = values["x"].double(), values["context"].double()
    parallel = Parallel(sp=3, shard_params=True)
    with fastvideo.compile(model, parallel=parallel, executor=executor, device="cpu", verify=False) as ranks:
        assert max(errors_of(ranks(**values), [model(**values)[0].detach()])) <= 1e-12
        (program,) = ranks.programs
        ((found,),) = ranks._specializations.values()
        if executor == "simulated":
            held = [matrix_bytes(pieces.values()) for pieces in found.executor._pieces(found.executor._params)]  # type: ignore[attr-defined]
        else:
            group = ranks._ranks.group
            assert group is not None
            held = [matrix_bytes(group._session.rank._loaded[0].params.values())]
    whole = matrix_bytes(p for p in model.parameters())
    assert all(abs(size - whole / 3) <= 0.04 * whole for size in held)
    # The blocks of the model, and what stands before and behind them.
    assert DEPTH - 1 <= len(gathers(program)) <= DEPTH + 2
    assert max(gathers(program)) <= 12  # a block has nine matrices


def test_pieces_over_two_axes_beside_cut_weights_are_exact() -> None:
    before = attention(2, 61, 8, "cfg=2, sp=2, tp=2")
    planned = run_passes(before, PLANNED)
    after = run_passes(planned, [ShardParams(always=True)])
    assert {str(ir.tensor_type(node)) for node in after.param_nodes} == {
        "f32[64/8@tp, 64@cfg.sp]",
        "f32[64@cfg.sp, 64/8@tp]",
    }
    assert weight_bytes(after, 0) * 4 == weight_bytes(planned, 0)
    assert_same_numbers(before, after)


def test_uneven_pieces_are_exact() -> None:
    before = attention(1, 61, 3, "sp=5", head_dim=2)
    after = run_passes(before, f"{PLANNED},shard-params{{always=1}}")
    assert {str(ir.tensor_type(node)) for node in after.param_nodes} == {"f32[6@sp, 6]"}
    assert_same_numbers(before, after)


def test_memory_decides_where_nobody_says() -> None:
    planned = run_passes(attention(1, 61, 8, "sp=2"), PLANNED)
    peak = peak_bytes(planned)
    for memory, sharded in ((0, False), (2 * peak, False), (peak, True)):
        assert bool(gathers(run_passes(planned, [ShardParams(memory=memory)]))) == sharded


def test_what_is_gathered_is_gone_with_its_block() -> None:
    chain = ["%x : f32[1, 4, 256] = input"]
    params = [f'%w{n} : f32[256, 256] = param "w{n}" parameter' for n in range(16)]
    for n in range(16):
        source = f"%y{n - 1}" if n else "%s"
        chain.append(f"%y{n} : f32[1, 4@sp, 256] = aten.linear.default({source}, %w{n})")
    chain.insert(1, '%s : f32[1, 4@sp, 256] = fv.shard(%x, "sp")')
    end = ['%row : (f32[1, 4, 256]) = fv.all_gather([%y15], "sp")', "%z : f32[1, 4, 256] = getitem(%row, 0)"]
    planned = program("\n".join([*params, *chain, *end, "return (%z)"]), "communicating", "sp=4")
    after = run_passes(planned, [ShardParams(always=True)])
    matrix = 256 * 256 * 4
    # A quarter of all sixteen; two in use, as they came and put together; two under way, and what is sent of them.
    assert peak_bytes(after) <= (16 / 4 + 4 + 3) * matrix < peak_bytes(planned) / 1.4
    assert_same_numbers(planned, after)


def test_next_block_is_on_its_way_while_one_is_computed() -> None:
    after = run_passes(attention(1, 61, 8, "sp=2"), f"{PLANNED},shard-params{{always=1}}")
    local = localize(after, 0)
    order = list(local.nodes)
    transfers = [node for node in order if node.target is ir.dialect.gather]
    assert transfers
    for transfer in transfers[1:-1]:  # the first is needed at once, the last is the result
        reader = min(order.index(user) for user in transfer.users)
        between = order[order.index(transfer) + 1 : reader]
        assert any(node.target is torch.ops.aten.linear.default for node in between)


@pytest.mark.parametrize(
    ("options", "passes", "text"),
    [
        ({"tp": 2, "shard_params": True}, None, "shard_params=True needs an axis whose ranks hold the same params"),
        ({"sp": 2, "shard_params": "yes"}, None, "Parallel(shard_params='yes'): expected True, False or None"),
        ({"sp": 2, "shard_params": True}, "default,-shard-params", "the passes that were given lack 'shard-params'"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], passes: str | None, text: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        fastvideo.compile(toy.build(1), parallel=Parallel(**options), passes=passes, device="cpu")  # type: ignore[arg-type]
    assert text in str(caught.value)
