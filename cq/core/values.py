"""What a number or a text of a configuration may be, declared where the field is: `batch_size: Count`.

The door through which components are built (`cq.run.building.build`) reads it. Beside what is declared, every number is
finite, no integer is beyond 32 bits, and no text is empty or holds what cannot be seen.
"""

from dataclasses import dataclass
from typing import Annotated, Any

LARGEST = 2**31 - 1  # of any integer: whatever is counted here, more would never end


@dataclass(frozen=True)
class Within:
    """low..high, ends included. usual: a good value, for the remedy."""

    low: float
    high: float
    usual: str = ""

    def check(self, value: Any) -> Any:
        """The value. Raises ValueError with rule and remedy where it lies outside."""
        if self.low <= value <= self.high:
            return value
        rule = f"at least {self.low:g}" if value < self.low else f"at most {self.high:.15g}"
        raise ValueError(f"must be {rule}.{f' {self.usual} is usual.' if self.usual else ''}")

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """How pydantic is told, which is loaded only where something is checked."""
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self.check, handler(source))


@dataclass(frozen=True)
class Distinct:
    """No element twice."""

    def check(self, value: Any) -> Any:
        """The value. Raises ValueError with rule and remedy where an element comes again."""
        if value is not None and len(set(value)) < len(value):
            again = next(item for i, item in enumerate(value) if item in value[:i])
            raise ValueError(f"names {again!r} twice. Name each once.")
        return value

    __get_pydantic_core_schema__ = Within.__get_pydantic_core_schema__


Count = Annotated[int, Within(1, LARGEST)]
Batch = Annotated[int, Within(1, 2**17, "250")]  # as many as there are seeds of a kind
Share = Annotated[float, Within(0, 1)]
Guidance = Annotated[float, Within(0, 100, "1.5 for classes, 7.5 for prompts")]
Resamples = Annotated[int, Within(0, 100_000, "200")]


def check_plain(value: Any, key: str, *, empty: bool = False) -> None:
    """Raise ValueError for a value that no field takes, wherever it stands in lists. empty: may a text be that."""
    if isinstance(value, list | tuple):
        for item in value:
            check_plain(item, key, empty=empty)
    elif isinstance(value, float) and not -LARGEST <= value <= LARGEST:
        raise ValueError(f"{key}={value}: must be a finite number below 2^31. Give one.")
    elif isinstance(value, int) and abs(value) > LARGEST:
        raise ValueError(f"{key}={value}: must be below 2^31. Lower it.")
    elif isinstance(value, str) and not value.isprintable():
        raise ValueError(f"{key}={value!r}: must be one line of visible text. Take out what is not.")
    elif isinstance(value, str) and not value.strip() and not empty:
        raise ValueError(f"{key}={value!r}: must not be empty. Give a value, or leave the key out.")
