"""Packages of the wheel: those under cq/, and what the repository keeps beside them (`cq.run.origin.shipped`)."""

import tempfile

from setuptools import find_packages, setup

with tempfile.TemporaryDirectory() as folder:  # in build/, files of an earlier build would be taken, too
    setup(
        packages=[*find_packages(include=["cq", "cq.*"]), "cq.conf", "cq.results"],
        package_dir={"cq.conf": "conf", "cq.results": "results"},
        options={"build": {"build_base": folder}},
    )
