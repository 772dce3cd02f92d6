"""What is kept from call to call, at a first call: nothing is left out. And what is kept on the host."""

from __future__ import annotations

from .case import call, exact

CASES = [
    exact("fv.fetch", lambda d: call(d.real("bsc")), "012"),
    exact("fv.recall", lambda d: call(d.real("bsc"), "slot"), "012"),
    exact("fv.keep", lambda d: call(d.real("bsc"), "slot"), "012"),
    exact("fv.decide", lambda d: call(d.real("2b"), d.real("bsc"), 0.1, "slot")),
    exact("fv.resume", lambda d: call(d.real("bsc"), d.real("bsc"), d.real("2b"), "slot"), "012"),
]
