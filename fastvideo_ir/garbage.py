"""When Python looks for cycles of garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collections_put_off() -> Iterator[None]:
    """While entered, no cycles are looked for, unless somebody asks for it.

    Graphs are many small objects that live on: making one starts collection after collection, each of which walks all
    that PyTorch and the libraries hold (half a second with Diffusers loaded) and finds next to nothing. Not for calls
    of a model's own Python on real tensors: what its cycles hold may be large.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
