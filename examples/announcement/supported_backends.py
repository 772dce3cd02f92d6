"""An attention that says which backends may run it. Plain ``nn.Module``s, written for one device, need not.

python examples/announcement/supported_backends.py
"""

import torch
from torch import nn

import fastvideo
from fastvideo import Backend, DistributedAttention


class NewDiT(nn.Module):
    def __init__(self, hidden_size=1024, num_heads=16, head_dim=64):
        super().__init__()
        # Create attention module with multiple supported backends
        # The system will automatically select the best available backend
        self.attn = DistributedAttention(
            dim=hidden_size,
            num_heads=num_heads,
            head_dim=head_dim,
            supported_attention_backends=(
                Backend.TORCH_SDPA,  # Basic PyTorch attention
                Backend.FLASH_ATTN,  # FlashAttention for speed
                Backend.SLIDING_TILE_ATTN,  # Sliding Tile for video-specific optimization
            ),
        )

    def forward(self, x, attention_mask=None):
        # Runs on the selected backend with the right parallelism strategy
        return self.attn(x, attention_mask=attention_mask)


compiled = fastvideo.compile(NewDiT().eval(), num_gpus=2)
print(compiled(torch.randn(1, 100, 1024)).shape)
print(compiled.explain())
compiled.close()
