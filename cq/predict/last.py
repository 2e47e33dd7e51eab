"""Last: the map of the last refresh stands for that of every call until the next (DeepCache, Delta-DiT, FORA)."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Last:
    """The identity among predictors."""

    @property
    def depth(self) -> int:
        """One refresh."""
        return 1

    def weights(self, call: int, refreshes: tuple[int, ...]) -> tuple[float, ...]:
        """All weight on the last refresh."""
        return (1.0,)
