"""What an attention backend is, and what it is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self, TypeAlias

import torch
from torch import Tensor, fx

import fastvideo_ir as ir
from fastvideo_ir.graph import bind
from fastvideo_ir.ops.attention import is_lengths


@dataclass(frozen=True)
class Yes:
    """The backend can run the site.

    Attributes:
        preferred: False where ``auto`` should take another one that can run it as well.
    """

    preferred: bool = True


@dataclass(frozen=True)
class No:
    """The backend cannot run the site; the reason reaches ``explain()`` and error texts.

    Attributes:
        reason: why not.
        install: the command that installs what is missing; empty where nothing is.
    """

    reason: str
    install: str = ""


Support: TypeAlias = Yes | No


@dataclass(frozen=True)
class AttentionSite:
    """One attention of a program, as far as a kernel may care. Shapes are global.

    Attributes:
        query: ``[batch, heads, queries, head_dim]``.
        key: ``[batch, kv_heads, keys, head_dim]``.
        value: ``[batch, kv_heads, keys, value_dim]``.
        mask: boolean or additive mask, broadcastable to ``[batch, heads, queries, keys]``; None for none.
        scale: factor of the scores; None for ``head_dim ** -0.5``.
        causal: whether query i sees only the keys up to i.
        ring: whether keys and values must be able to travel around the ranks of an axis.
        device: type of the device that the program will run on, e.g. ``"cuda"``.
        location: where the model calls it.
        lengths: int32 ``[batch]``, how many of the first keys each row sees; None for all of them, or a mask.
    """

    query: ir.TensorType
    key: ir.TensorType
    value: ir.TensorType
    mask: ir.TensorType | None
    scale: float | None
    causal: bool
    device: str
    location: ir.Location | None = None
    ring: bool = False
    lengths: ir.TensorType | None = None

    @property
    def dtype(self) -> torch.dtype:
        return self.query.dtype

    @property
    def head_dim(self) -> int:
        return self.query.shape[3]

    @property
    def is_self_attention(self) -> bool:
        """Whether queries and keys are the same number of tokens."""
        return self.query.shape[2] == self.key.shape[2]

    def with_lengths(self, lengths: ir.TensorType) -> AttentionSite:
        """The site with lengths in the place of its mask."""
        return replace(self, mask=None, lengths=lengths)

    @staticmethod
    def of(node: fx.Node, device: str, ring: bool = False) -> AttentionSite:
        """The site that an attention op makes."""
        arguments = bind(node)
        mask = ir.tensor_type(arguments["mask"]) if isinstance(arguments["mask"], fx.Node) else None
        counted = mask is not None and is_lengths(mask)
        return AttentionSite(
            query=ir.tensor_type(arguments["q"]),
            key=ir.tensor_type(arguments["k"]),
            value=ir.tensor_type(arguments["v"]),
            mask=None if counted else mask,
            scale=arguments["scale"],
            causal=arguments.get("causal", False),
            device=device,
            location=ir.info(node).location,
            ring=ring,
            lengths=mask if counted else None,
        )


class AttentionBackend(ABC):
    """A way to compute attention. Registering one makes the op ``fv_attn::<name>``, and every model has it.

    Class attributes:
        name: as users write it, e.g. ``FLASH_ATTN``.
        exact: False where results differ from softmax attention beyond rounding; such a backend runs only when named.
        partial: whether, when named, it leaves the sites that it does not support to exact ones.
        takes_lengths: whether the mask that :meth:`run` gets may be lengths, int32 ``[batch]``.
        replayable: whether what :meth:`run` launches may be replayed on other values in the same memory, as part of a
            CUDA graph: it reads no values on the host, and no memory of its own that might be freed.
    """

    name: ClassVar[str]
    exact: ClassVar[bool] = True
    partial: ClassVar[bool] = False
    takes_lengths: ClassVar[bool] = False
    replayable: ClassVar[bool] = False

    def configured(self, environment: Mapping[str, str]) -> Self:
        """The backend with what the environment says of its options; asked once, before anything is compiled."""
        return self

    @abstractmethod
    def supports(self, site: AttentionSite) -> Support:
        """Whether this backend can run ``site`` here, and if not, why. Must not compute anything."""

    @abstractmethod
    def run(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool) -> Tensor:
        """Compute it, on the device of the operands; shapes as in :func:`fastvideo_ir.ops.attention.attention`.

        Queries or heads may be fewer than the site's: a rank has its share of them.
        """

    def run_with_lse(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`run`, and the log-sum-exp of each query's scores, by which a ring merges its pieces.

        A backend that overrides this can run ring attention; see :func:`fastvideo_ir.ops.ring.define_ring_forms`.
        """
        raise NotImplementedError(f"{self.name} tells no log-sum-exp")

    @property
    def tells_lse(self) -> bool:
        return type(self).run_with_lse is not AttentionBackend.run_with_lse

    def answer(self, site: AttentionSite) -> Support:
        """:meth:`supports`, whether the keys can travel where they must, and whether lengths are understood."""
        if site.lengths is not None and not self.takes_lengths:
            return No("it takes no lengths of keys")
        if site.lengths is not None and site.ring:
            return No("keys that travel around an axis are in pieces, which lengths do not count")
        if site.ring and not self.tells_lse:
            return No("it tells no log-sum-exp, by which a ring merges its pieces")
        return self.supports(site)

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool
    ) -> Tensor:
        """The same in plain PyTorch, for any device. Exact backends inherit softmax attention."""
        out: Tensor = ir.ops.attention.attention(q, k, v, mask, scale, causal)
        return out
