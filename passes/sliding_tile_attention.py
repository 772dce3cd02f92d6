"""``sliding-tile-attention``: every attention over the token grid attends to the tiles around each token instead."""

from __future__ import annotations

import operator

import torch
from torch import fx

import fastvideo_ir as ir
from fastvideo_ir.errors import BackendUnavailableError
from fastvideo_ir.graph import bind
from fastvideo_ir.ops.define import aten
from fastvideo_ir.ops.restricted_attention import allowed_backends, awaits_backend

from ..backends import attention
from ..backends.attention.sliding_tile import SlidingTile, sliding_tile_op
from .planner.policy import policy_of
from .token_grid import TokenGrids

WINDOWS_INPUT = "attention_windows"
"""Name of the program input that holds the windows: ``int32[layers, heads, 3]``."""


class SlidingTileAttention(ir.Pass):
    """Sites without a token grid stay as they are; if no site has one, that is an error with the reasons.

    The program gets one more input, the windows of each layer and head, so that they can change from step to step.

    Attributes:
        options: tile, windows and a grid, as the user gives them.
        device: type of the device that the program will run on.
    """

    name = "sliding-tile-attention"
    needs = ir.Stage.CANONICAL
    preserves_numerics = False

    options: SlidingTile = SlidingTile()
    device: str = "cpu"

    @property
    def approximates(self) -> str:
        return f"attention_backend={self.options.name}"

    def run(self, program: ir.Program) -> None:
        ring = any(policy_of(axis).whole_heads for axis in program.mesh.names)
        sites = [node for node in program.nodes if awaits_backend(node)]
        grids = TokenGrids(program)
        chosen: list[tuple[fx.Node, attention.TokenGrid]] = []
        reasons: dict[str, None] = {}
        for node in sites:
            found = attention.allowed(self.options, allowed_backends(node)) or grids.at(node, self.options.grid)
            if isinstance(found, attention.TokenGrid):
                site = attention.AttentionSite.of(node, self.device, ring)
                answer = self.options.supports_grid(site, found)
                if isinstance(answer, attention.Yes):
                    chosen.append((node, found))
                    continue
                found = answer
            reasons[found.reason] = None
        if not chosen:
            raise BackendUnavailableError(
                f"{self.options.name} needs an attention over a grid of time × height × width, and none of the "
                f"{len(sites)} attentions of this program is one: {'; '.join(reasons) or 'it has no attention'}",
                hint="where the model takes packed tokens, give their grid: "
                "attention_backend=fastvideo.SlidingTile(grid=(21, 30, 52))",
            )
        self._rewrite(program, chosen)

    def _rewrite(self, program: ir.Program, chosen: list[tuple[fx.Node, attention.TokenGrid]]) -> None:
        rewriter = ir.Rewriter(program, self.name)
        heads = {ir.tensor_type(node).shape[1] for node, _ in chosen}
        if len(heads) > 1:
            raise BackendUnavailableError(
                f"attentions over the token grid have {sorted(heads)} heads; one number is needed"
            )
        shape = (len(chosen), heads.pop(), 3)
        table = rewriter.add_input(WINDOWS_INPUT, ir.TensorType(torch.int32, shape))
        first = next(node for node in program.nodes if node.op == "call_function")
        sources = [node for node, _ in chosen]
        rows = rewriter.insert(aten.unbind.int, (table, 0), before=first, sources=sources)  # blocks stay equal
        for layer, (node, tokens) in enumerate(chosen):
            arguments = bind(node)
            windows = rewriter.insert(operator.getitem, (rows, layer), before=node)
            place = (list(tokens.grid), list(self.options.tile), tokens.start, False)
            operands = (*(arguments[name] for name in ("q", "k", "v")), windows, arguments["mask"], arguments["scale"])
            rewriter.replace_with(node, sliding_tile_op, (*operands, *place))
