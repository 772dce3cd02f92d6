"""All classes of the zoo, in groups."""

from __future__ import annotations

from .cases import ZooCase
from .models_audio import AUDIO
from .models_beyond import BEYOND
from .models_encoders import ENCODERS
from .models_everyday import EVERYDAY
from .models_handwritten import HANDWRITTEN
from .models_image import IMAGE
from .models_image_more import MORE_IMAGE
from .models_packed import PACKED
from .models_recent import RECENT
from .models_video import VIDEO
from .models_video_more import MORE_VIDEO

GROUPS: dict[str, tuple[ZooCase, ...]] = {
    "Video": (*EVERYDAY[:3], *VIDEO, *MORE_VIDEO),
    "Image": (*EVERYDAY[3:], *IMAGE, *PACKED, *RECENT, *MORE_IMAGE),
    "Audio and others": AUDIO,
    "Text and image encoders": ENCODERS,
    "Written by hand": HANDWRITTEN,
    "Beyond transformers": BEYOND,
}
NOT_DENOISERS = ("Text and image encoders", "Beyond transformers")
ZOO: tuple[ZooCase, ...] = tuple(case for cases in GROUPS.values() for case in cases)
