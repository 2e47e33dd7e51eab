"""The Acceleration as a user holds it: saved in a folder, loaded from one, put on a pipeline of diffusers."""

from dataclasses import InitVar, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import nn
from typing_extensions import Self

from cq.adapt.applied import Applied, removed
from cq.adapt.networks import check_made_of, origin_of, place_of
from cq.core import acceleration as core
from cq.core.artifacts import DOCUMENT
from cq.core.contracts import Engine
from cq.core.failures import writing
from cq.engine.stored_weights import FILE, StoredWeights, save_weights, without_codes


@dataclass(frozen=True, kw_only=True, repr=False)
class Acceleration(core.Acceleration):
    """`cq.core.acceleration.Acceleration`, which says what its fields are, with the ways in and out.

    stored: the weights that it was saved with, which `load` gives it; no field, for they decide nothing else.
    """

    remedy: ClassVar[str] = (
        "Name the folder that save() wrote, or a run's acceleration folder; if it is that, copy it again."
    )
    beside: ClassVar[tuple[str, ...]] = (*core.Acceleration.beside, FILE)

    stored: InitVar[StoredWeights | None] = None

    def __post_init__(self, stored: StoredWeights | None) -> None:
        super().__post_init__()
        object.__setattr__(self, "_stored", stored)

    @classmethod
    def of(cls, made: core.Acceleration) -> Self:
        """What the stages of a run have made."""
        return cls(**{field.name: getattr(made, field.name) for field in fields(made)})

    def save(self, folder: str | Path, *, weights: Any = None) -> None:
        """Write tensors, a page for a reader and, last, `artifact.json` with the checksums of the others.

        weights: the pipeline that it was made of, or its network. Then `network.safetensors` has the network's weights
        in their bits, and all its other parameters: it is applied without the checkpoint (see `network`), with the
        same images. Raises ValueError for weights that it was not made of, and for a folder that holds anything but
        another Acceleration, which this would write over.
        """
        folder = Path(folder).expanduser()
        if folder.exists() and not (folder.is_dir() and ((folder / DOCUMENT).is_file() or not any(folder.iterdir()))):
            raise ValueError(
                f"{folder}: is there, and no Acceleration. Name an empty folder, or one that is not there."
            )
        stored: StoredWeights | None = self.__dict__["_stored"]
        if stored is not None and folder.resolve() == stored.path.parent.resolve():
            raise ValueError(f"{folder}: holds this Acceleration and its weights already. Name another folder.")
        if weights is None:
            super().save(folder)
            return
        network = weights if isinstance(weights, nn.Module) else getattr(weights, place_of(weights))
        check_made_of(network, origin_of(self)["model"], f"weights={type(network).__name__}")
        params = self.params
        without = replace(self, params=without_codes(params))
        super(Acceleration, without).save(folder)
        with writing(folder):
            (folder / DOCUMENT).unlink()
            save_weights(folder, network, params)
            (folder / DOCUMENT).write_text(without._document(folder))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote. Raises ValueError where a byte differs from that."""
        made = super().load(folder)
        if not (folder / FILE).exists():
            return made
        stored = StoredWeights.of(folder)
        return replace(made, params=stored.joined(made.params, every=False), stored=stored)

    def network(self) -> nn.Module:
        """The network that a pipeline is built around where its checkpoint is not loaded, as by `from_pretrained(...,
        unet=cq.load(FOLDER).network())`.

        It has no numbers, for its parameters are on the meta device, until this Acceleration is applied to the
        pipeline. Raises ValueError where this was not loaded from a folder with weights.
        """
        stored: StoredWeights | None = self.__dict__["_stored"]
        if stored is None:
            raise ValueError(
                "network: this Acceleration was loaded without weights. Build the pipeline from its checkpoint, or "
                "save with them once, save(FOLDER, weights=pipe), and load that folder."
            )
        return stored.network()

    def apply(self, pipe: Any, *, engine: Engine | str | None = None) -> Applied:
        """Accelerate a stock pipeline of the model that this was made of, in place, until it is removed.

        pipe: of diffusers, with a `unet` or `transformer` and a `scheduler`; for any batch, prompt and seed, with the
        scheduler and the number of steps of the calibration. Where that network has no weights (see `network`), it has
        those that this was saved with, until it is removed. engine: who executes it, or the name of a choice of
        `engine`, as "int8"; by default in full precision, or simulated where it has bits. Raises ValueError for another
        model. Noise that a scheduler adds (eta above 0) is not seen here, and was not calibrated.
        """
        return Applied(
            pipe, self, engine_named(engine) if isinstance(engine, str) else engine, self.__dict__["_stored"]
        )


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
