"""From the prompts to text embeddings."""

from __future__ import annotations

import html
import logging
import re

import ftfy
import torch

from .stage import Stage
from .state import GenerationState

_LOG = logging.getLogger(__name__)


class EncodeTextStage(Stage):
    """Encodes the prompt, and with guidance the negative prompt, as one batch; padding tokens become zeros."""

    provides = ("text",)

    def run(self, state: GenerationState) -> None:
        request = state.request
        prompts = [request.prompt, request.negative_prompt] if request.guided else [request.prompt]
        state.text = self._encode([clean_prompt(prompt) for prompt in prompts], request.max_sequence_length)

    def _encode(self, prompts: list[str], length: int) -> torch.Tensor:
        """Embeddings ``(len(prompts), length, dim)`` in the denoiser's dtype."""
        tokenizer = self.context.components["tokenizer"].value
        encoder = self.context.components["text_encoder"].value
        denoiser_dtype = self.context.components["transformer"].dtype
        for prompt in prompts:
            tokens = len(tokenizer(prompt, verbose=False).input_ids)
            if tokens > length:
                _LOG.warning("a prompt of %d tokens is cut to the %d that the text encoder takes", tokens, length)
        batch = tokenizer(
            prompts,
            padding="max_length",
            max_length=length,
            truncation=True,
            add_special_tokens=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        ids, mask = batch.input_ids.to(self.context.device), batch.attention_mask.to(self.context.device)
        text = encoder(ids, mask).last_hidden_state
        # Zeros, not the encoder's output at padding: the denoiser was trained so, and attends to all tokens.
        text = torch.where(mask.unsqueeze(-1).bool(), text, torch.zeros_like(text))
        return text.to(denoiser_dtype)


def clean_prompt(prompt: str) -> str:
    """Mend broken Unicode, resolve HTML entities and collapse white space, as in the training data."""
    text = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", text).strip()
