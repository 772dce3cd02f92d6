"""Ops that work along a few dims and treat the others alike."""

from __future__ import annotations

from .case import call, case, exact

ONE = [(0,)]
_COMPLEX = "fft_fft fft_ifft fft_irfft fft_hfft"
_COMPLEX_PLANES = "fft_fft2 fft_ifft2 fft_irfft2"
_COMPLEX_SPACES = "fft_fftn fft_ifftn fft_irfftn"

CASES = [
    *(
        case(f"{name}.default", lambda d: call(d.complex("bsc"), None, 1), "02", partial=ONE)
        for name in _COMPLEX.split()
    ),
    case("fft_ihfft.default", lambda d: call(d.real("bsc"), None, 0), "12", partial=ONE),
    case("fft_rfft.default", lambda d: call(d.real("bsc"), None, -1), "01", partial=ONE),
    *(case(f"{name}.default", lambda d: call(d.complex("bhw")), "0", partial=ONE) for name in _COMPLEX_PLANES.split()),
    case("fft_rfft2.default", lambda d: call(d.real("bhwc"), None, [1, 2]), "03", partial=ONE),
    *(
        case(f"{name}.default", lambda d: call(d.complex("bhwc"), None, [1, 2]), "03", partial=ONE)
        for name in _COMPLEX_SPACES.split()
    ),
    case("fft_rfftn.default", lambda d: call(d.real("bhwc"), None, [1, 2]), "03", partial=ONE),
    exact("fft_fftshift.default", lambda d: call(d.real("bsc"), [1]), "02", partial=ONE),
    exact("fft_ifftshift.default", lambda d: call(d.real("bsc"), [-1]), "01", partial=ONE),
    exact("diff.default", lambda d: call(d.real("b5c"), 1, 1), "02"),
    exact("unfold.default", lambda d: call(d.real("b9c"), 1, 4, 2), "02", partial=ONE),
    exact("diagonal.default", lambda d: call(d.real("bscs"), 0, 1, 3), "01", partial=ONE),
    exact("diag_embed.default", lambda d: call(d.real("bsc"), 1), "01", partial=ONE),
    exact("diag_embed.default", lambda d: call(d.real("bsc"), 0, 0, 2), "13", partial=ONE),
    case("im2col.default", lambda d: call(d.real("bc", 5, 6), [2, 3], [1, 1], [1, 1], [1, 2]), "01", partial=ONE),
    case(
        "col2im.default", lambda d: call(d.real("b", 24, 4), [4, 6], [2, 3], [1, 1], [0, 0], [2, 3]), "01", partial=ONE
    ),
    case("cosine_similarity.default", lambda d: call(d.real("bsc"), d.real("1sc"), -1), "01"),
    case("cross.default", lambda d: call(d.real("bs3"), d.real("bs3"), 2), "01"),
    case("linalg_cross.default", lambda d: call(d.real("b3c"), d.real("b3c"), dim=1), "02"),
    case("cdist.default", lambda d: call(d.real("bmk"), d.real("bnk")), "012"),
]
