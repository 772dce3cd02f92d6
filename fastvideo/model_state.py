"""Notices that a model's weights, or tensors that are plain attributes of its modules, are no longer what they were."""

from __future__ import annotations

from collections.abc import Sequence, Set

from torch import Tensor, nn

Versions = list[tuple[int, int, int]]


class ModelState:
    """The tensors of ``model`` as they were when :meth:`accept` was called last, and before that when this was made."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._attributes = {
            f"{path}.{name}".lstrip("."): (vars(module), name)
            for path, module in model.named_modules()
            for name, value in vars(module).items()
            if isinstance(value, Tensor)
        }
        self._ignored: frozenset[str] = frozenset()
        self.accept()

    @property
    def changed(self) -> bool:
        """Whether anything is other than it was."""
        return self._weights() != self._accepted[0] or self.attributes_changed

    @property
    def attributes_changed(self) -> bool:
        """Whether a tensor that is a plain attribute is."""
        return self._plain_attributes() != self._accepted[1]

    def accept(self, ignored: Set[str] = frozenset()) -> None:
        """Take everything as it is now.

        Args:
            ignored: paths of buffers and attributes that every call of the model sets anew: nothing depends on them.
        """
        self._ignored |= ignored
        self._accepted = self._weights(), self._plain_attributes()

    def _weights(self) -> Versions:
        named = [*self._model.named_parameters(), *self._model.named_buffers()]
        return _versions([tensor for name, tensor in named if name not in self._ignored])

    def _plain_attributes(self) -> Versions:
        watched = [held for path, held in self._attributes.items() if path not in self._ignored]
        return _versions([value for owner, name in watched if isinstance(value := owner.get(name), Tensor)])


def _versions(tensors: Sequence[Tensor]) -> Versions:
    """Changes when a tensor is replaced, written to, or given another storage; that may move, as when it is shared."""
    return [(id(t), 0 if t.is_inference() else t._version, t.untyped_storage()._cdata) for t in tensors]
