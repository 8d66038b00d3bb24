"""transformers' own common tests, from the source distribution of the installed version, as an importable package.

The source distribution holds the mixins for models and configurations, but neither those for generation and export nor
the values of common fields. Those get stand-ins: our models do not generate, and `tests/export` tests the export.
"""

import importlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest
from importlib.metadata import version
from pathlib import Path

import pytest

CACHE = Path(__file__).resolve().parents[1] / ".pytest_cache"  # git ignores it, and make clean removes it
_PACKAGE = "transformers_common_tests"
_FILES = ("test_modeling_common.py", "test_configuration_common.py")
_STAND_INS = {
    "__init__.py": "",
    "generation/__init__.py": "",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "exporters/__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "utils/__init__.py": "",
    "utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
}
_PIP = ("download", "--quiet", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--retries", "1")


def import_common_tests(config):
    """Import the common tests; returns the modules of models and of configurations.

    `config` is pytest's, which gets to know the marks that the tests carry.

    The test that calls this is skipped if the source distribution cannot be fetched.
    """
    pytest.importorskip("parameterized", reason="transformers' common tests need the package parameterized")
    folder = CACHE / f"transformers-{version('transformers')}"
    if not folder.is_dir():
        _fetch(folder)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    text = "".join((folder / _PACKAGE / name).read_text() for name in _FILES)
    for mark in sorted(set(re.findall(r"@(?:pytest\.)?mark\.(\w+)", text))):
        config.addinivalue_line("markers", f"{mark}: of transformers' common tests")
    return tuple(importlib.import_module(f"{_PACKAGE}.{Path(name).stem}") for name in _FILES)


def _fetch(folder):
    """Download the source distribution with pip, and lay the two files and the stand-ins into a package."""
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        requirement = f"transformers=={version('transformers')}"
        command = [sys.executable, "-m", "pip", *_PIP, "--dest", temporary, requirement]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
        except (subprocess.SubprocessError, OSError) as error:
            said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
            pytest.skip(f"pip cannot fetch the source distribution of {requirement}: {' '.join(said)}")
        package = Path(temporary) / "whole" / _PACKAGE
        for name, text in _STAND_INS.items():
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).write_text(text)
        with tarfile.open(next(Path(temporary).glob("*.tar.gz"))) as archive:
            for name in _FILES:
                member = archive.extractfile(f"transformers-{version('transformers')}/tests/{name}")
                (package / name).write_bytes(member.read())
        shutil.move(package.parent, folder)  # at the end, so that a folder that is there is whole


class Outcomes(unittest.TestResult):
    """The names of tests by outcome: `passed`, `skipped` (with reasons) and `failed` (with tracebacks)."""

    def __init__(self):
        super().__init__()
        self.passed = []

    def addSuccess(self, test):  # noqa: N802 (unittest's name)
        self.passed.append(_name(test))

    @property
    def reasons(self):
        return {_name(test): reason for test, reason in self.skipped}

    @property
    def failed(self):
        return {_name(test): text for test, text in [*self.failures, *self.errors]}


def run_tests(case):
    """Run all tests of a `unittest.TestCase`."""
    outcomes = Outcomes()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(outcomes)
    return outcomes


def _name(test):
    return getattr(test, "test_case", test)._testMethodName  # of a subtest, that of its test
