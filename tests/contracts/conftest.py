"""One folder a model family."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def folders(tiny_folders: dict[str, Path]) -> dict[str, Path]:
    return tiny_folders
