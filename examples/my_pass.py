"""A pass of your own: an op that was computed already, from the same operands, is not computed again.

    python examples/my_pass.py

It knows no model, so every model has it: ``passes="default,merge-duplicates{max_mib=16}"``. With
``FASTVIDEO_DUMP=folder``, ``folder/05-merge-duplicates.diff`` shows what it did.
"""

from __future__ import annotations

import torch

import fastvideo
import fastvideo_ir as ir


@fastvideo.register_pass
class MergeDuplicates(fastvideo.Pass):
    """Common subexpressions, merged. Exact: the same op on the same operands gives the same bits.

    Attributes:
        max_mib: larger values are computed again, since a merged one stays in memory until its last use.
    """

    name = "merge-duplicates"
    needs = ir.Stage.CANONICAL

    max_mib: float = 64.0

    def run(self, program: fastvideo.Program) -> None:
        rewriter = fastvideo.Rewriter(program, self.name)
        first: dict[tuple[object, ...], torch.fx.Node] = {}
        for node in list(program.nodes):
            op = ir.ops.of(node)
            if op is None or ir.Trait.RANDOM in op.traits:  # an op without a record may do anything
                continue
            if sum(kind.nbytes for kind in ir.types.tensor_types(ir.value_type(node))) > self.max_mib * 2**20:
                continue
            # Operands print as their names, and 1, 1.0 and True print differently.
            same = first.setdefault((node.target, repr(node.args), repr(node.kwargs), ir.value_type(node)), node)
            if same is not node:
                rewriter.replace(node, same)


if __name__ == "__main__":
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    model = FluxTransformer2DModel(num_layers=2, num_single_layers=2, attention_head_dim=12, num_attention_heads=8,
                                   in_channels=8, joint_attention_dim=16, pooled_projection_dim=8,
                                   axes_dims_rope=(4, 4, 4)).eval()  # fmt: skip
    inputs = {"hidden_states": torch.randn(1, 187, 8), "encoder_hidden_states": torch.randn(1, 10, 16),
              "pooled_projections": torch.randn(1, 8), "timestep": torch.tensor([0.5]),
              "img_ids": torch.rand(187, 3), "txt_ids": torch.zeros(10, 3), "return_dict": False}  # fmt: skip
    for passes in ("default", "default,merge-duplicates"):
        with fastvideo.compile(model, passes=passes) as compiled:
            error = (compiled(**inputs)[0] - model(**inputs)[0]).abs().max()
            print(f"{passes}: {len(list(compiled.programs[0].nodes))} nodes, error {error:.1e}")
