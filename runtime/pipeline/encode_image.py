"""From the picture to what the denoiser is told of it."""

from __future__ import annotations

from .picture import read_picture
from .stage import Stage
from .state import GenerationState


class EncodeImageStage(Stage):
    """Embeds the picture with the image encoder, in families that have one; what the latents hold of it comes later."""

    def run(self, state: GenerationState) -> None:
        picture = self.context.family.picture
        if state.request.image is None or picture is None or picture.encoder is None:
            return
        embedding = self.context.picture_reference.encode_image(read_picture(state.request.image), self.context.device)
        embedding = embedding.to(self.context.components["transformer"].dtype)
        state.inputs[picture.embedding] = embedding.repeat(state.batch, 1, 1)
