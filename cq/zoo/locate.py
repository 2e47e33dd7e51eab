"""From the way a configuration names a packaged network (`zoo:features`) to its folder."""

import re
from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"  # what ships with the package
SCHEME = "zoo:"


def locate(reference: str) -> Path:
    """The folder that `reference` names: `zoo:NAME` in the packaged zoo, else a local path.

    Raises ValueError where there is no such folder.
    """
    name = reference.removeprefix(SCHEME)
    if name == reference:
        folder = Path(reference)
        remedy = "Give the path of a folder that exists, or zoo:NAME for a packaged one."
    else:
        if not re.fullmatch(r"\w[\w-]*", name):
            raise ValueError(f"{reference!r}: what follows {SCHEME!r} must be one plain name, as in 'zoo:features'.")
        folder = WEIGHTS / name
        remedy = f"Build it with: python -m cq.zoo.train {name}"
    if not folder.is_dir():
        raise ValueError(f"{reference!r}: there is no folder {folder}. {remedy}")
    return folder
