"""The Acceleration as a user holds it: saved in a folder, loaded from one, put on a pipeline of diffusers."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import Self

from cq.adapt.applied import Applied, removed
from cq.core import acceleration as core
from cq.core.artifacts import DOCUMENT
from cq.core.contracts import Engine


@dataclass(frozen=True, kw_only=True, repr=False)
class Acceleration(core.Acceleration):
    """`cq.core.acceleration.Acceleration`, which says what its fields are, with the ways in and out."""

    remedy: ClassVar[str] = (
        "Name the folder that save() wrote, or a run's acceleration folder; if it is that, copy it again."
    )

    @classmethod
    def of(cls, made: core.Acceleration) -> Self:
        """What the stages of a run have made."""
        return cls(**{field.name: getattr(made, field.name) for field in fields(made)})

    def save(self, folder: str | Path) -> None:
        """Write tensors, a page for a reader and, last, `artifact.json` with the checksums of the others.

        Raises ValueError for a folder that holds anything but an Acceleration, which this would write over.
        """
        folder = Path(folder).expanduser()
        if folder.exists() and not (folder.is_dir() and ((folder / DOCUMENT).is_file() or not any(folder.iterdir()))):
            raise ValueError(
                f"{folder}: is there, and no Acceleration. Name an empty folder, or one that is not there."
            )
        super().save(folder)

    def apply(self, pipe: Any, *, engine: Engine | str | None = None) -> Applied:
        """Accelerate a stock pipeline of the model that this was made of, in place, until it is removed.

        pipe: of diffusers, with a `unet` or `transformer` and a `scheduler`; for any batch, prompt and seed, with the
        scheduler and the number of steps of the calibration. engine: who executes it, or the name of a choice of
        `engine`, as "int8"; by default in full precision, or simulated where it has bits. Raises ValueError for another
        model. Noise that a scheduler adds (eta above 0) is not seen here, and was not calibrated.
        """
        return Applied(pipe, self, engine_named(engine) if isinstance(engine, str) else engine)


def engine_named(name: str) -> Engine:
    """The engine of that choice, as `engine=NAME` builds it. Raises ValueError where there is none."""
    from cq.run.building import near  # brings Hydra
    from cq.run.compose import component
    from cq.run.health import choices_of

    known = choices_of("engine")
    if name not in known:
        raise ValueError(
            f"engine={name!r}: there is no such engine.{near(name, known)} Choose from: {', '.join(known)}."
        )
    engine: Engine = component(f"engine={name}")
    return engine


def load(folder: str | Path) -> Acceleration:
    """What `Acceleration.save`, or a run of `cq`, wrote. Raises ValueError where a byte differs from that."""
    return Acceleration.load(Path(folder).expanduser())


def remove(pipe: Any) -> None:
    """Undo `Acceleration.apply`. Raises ValueError where nothing is applied to the pipeline."""
    removed(pipe)
