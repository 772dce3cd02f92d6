"""Models written without a thought of parallelism."""

import torch
from torch import nn


class MyCustomModel(nn.Module):
    """Its forward takes the latents alone; what else a pipeline has for a denoiser is left out."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Conv3d(16, 64, kernel_size=1)
        self.decoder = nn.Conv3d(64, 16, kernel_size=1)

    def forward(self, x):
        # Model-specific logic
        return self.decoder(torch.tanh(self.encoder(x)))


class MyModelClass(nn.Module):
    """A small transformer over all latents, told of the noise level and of the prompt."""

    def __init__(self, channels=16, text_dim=64, dim=96, heads=4):
        super().__init__()
        self.heads = heads
        self.embed = nn.Linear(channels, dim)
        self.embed_text = nn.Linear(text_dim, dim)
        self.embed_time = nn.Linear(1, dim)
        self.to_qkv = nn.Linear(dim, 3 * dim)
        self.to_out = nn.Linear(dim, channels)

    def forward(self, hidden_states, timestep, encoder_hidden_states):
        batch, channels, *sizes = hidden_states.shape
        x = self.embed(hidden_states.flatten(2).transpose(1, 2))
        x = x + self.embed_time(timestep.to(x.dtype)[:, None, None] / 1000)
        x = x + self.embed_text(encoder_hidden_states).mean(1, keepdim=True)
        q, k, v = self.to_qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.to_out(x).transpose(1, 2).reshape(batch, channels, *sizes)
