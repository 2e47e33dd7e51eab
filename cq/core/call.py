"""The call that is running, for layers whose parameters depend on it; set by the denoiser, never counted."""

from collections.abc import Iterator
from contextlib import contextmanager


class CallIndex:
    """Holds the call index while a denoiser runs and nothing outside it.

    Layers inside diffusers modules cannot be handed the index as an argument. The denoiser sets it from the
    argument it was given and takes it away again, whatever happens, so no call can see another's index.
    """

    def __init__(self) -> None:
        self._call: int | None = None

    @property
    def value(self) -> int:
        """The running call; RuntimeError outside a denoiser call."""
        if self._call is None:
            raise RuntimeError("no denoiser call is running: call the Denoiser, not the network inside it.")
        return self._call

    @contextmanager
    def at(self, call: int) -> Iterator[None]:
        previous, self._call = self._call, call
        try:
            yield
        finally:
            self._call = previous
