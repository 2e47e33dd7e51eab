"""Where the files lie that the code needs: in a checkout beside the package, in a wheel inside it."""

from pathlib import Path

PACKAGE = Path(__file__).parent


def shipped(name: str) -> Path:
    """A file or folder of the repository that a wheel holds, too, as `conf` or `results/paper.csv`."""
    inside = PACKAGE / name
    return inside if inside.exists() else PACKAGE.parent / name
