"""One folder a model family, written once."""

from pathlib import Path

import pytest

from tests.families import WRITERS


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for family, write in WRITERS.items():
        made[family] = tmp_path_factory.mktemp(family)
        write(made[family])
    return made
