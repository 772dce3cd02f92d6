"""From the prompts to what the denoiser is told of them."""

from __future__ import annotations

import inspect
import logging

import torch

from .guidance import is_guided
from .reference import call_known
from .stage import Stage
from .state import GenerationState

_LOG = logging.getLogger(__name__)


class EncodeTextStage(Stage):
    """Encodes the prompt, and with classifier-free guidance the negative prompt, as one batch."""

    provides = ("text",)

    def run(self, state: GenerationState) -> None:
        request, family = state.request, self.context.family
        encoded = [self._encode(request.prompt, request.max_sequence_length)]
        if is_guided(family, request):
            encoded.append(self._encode(request.negative_prompt, request.max_sequence_length))
        dtype = self.context.components["transformer"].dtype
        state.text = {}
        for name, parts in zip(family.text, zip(*encoded, strict=True), strict=True):
            both = torch.cat(parts).to(self.context.device)
            state.text[name] = both.to(dtype) if both.is_floating_point() else both

    def _encode(self, prompt: str, length: int) -> tuple[torch.Tensor, ...]:
        """What the family's ``encode_prompt`` returns for one prompt, each tensor of batch one."""
        tokens = len(self.context.components["tokenizer"].value(prompt, verbose=False).input_ids)
        if tokens > length:
            _LOG.warning("a prompt of %d tokens is cut to the %d that the text encoder takes", tokens, length)
        reference = self.context.reference
        if "max_sequence_length" not in inspect.signature(reference.encode_prompt).parameters:
            reference.tokenizer_max_length = length  # such classes keep it as an attribute
        outputs = call_known(
            reference.encode_prompt,
            prompt=prompt,
            do_classifier_free_guidance=False,
            max_sequence_length=length,
            device=self.context.device,
        )
        return tuple(outputs[: len(self.context.family.text)])
