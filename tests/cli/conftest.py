"""The command line, in this process and in one of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services.conftest import home, spec, table
from workbench.cli import main

__all__ = ["home", "spec", "table"]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def wb(home, capsys):
    """wb(*arguments) -> (exit code, stdout as JSON where --json was given, stderr)."""

    def call(*arguments):
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, json.loads(out) if "--json" in arguments and out else out, err

    return call


@pytest.fixture
def fresh(home, tmp_path):
    """The same in a new process, away from the repository."""

    def call(*arguments):
        env = {**os.environ, "WORKBENCH_HOME": str(home), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-P", "-m", "workbench", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)

    return call
