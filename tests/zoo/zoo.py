"""All classes of the zoo, and what is known not to work."""

from __future__ import annotations

from .cases import ZooCase
from .models_audio import AUDIO
from .models_encoders import ENCODERS
from .models_handwritten import HANDWRITTEN
from .models_image import IMAGE
from .models_packed import PACKED
from .models_recent import RECENT
from .models_video import VIDEO

ZOO: tuple[ZooCase, ...] = (*VIDEO, *IMAGE, *PACKED, *RECENT, *AUDIO, *ENCODERS, *HANDWRITTEN)

KNOWN: dict[str, dict[str, str]] = {}
"""Class to the step that refuses ("capture", or a mesh) to how its error begins. A wrong result is never listed."""
