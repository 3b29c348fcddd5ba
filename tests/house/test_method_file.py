"""The sentence of CONTRIBUTING, as a test: a new method is one file, and no other file is touched."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

METHOD = '''"""Rescale: every output of a weight is scaled by one trained number.

    W' = diag(1 + g) W      g: (d_out,) = 0

A method of this test alone.

Parameters per site: d_out.
"""

import torch
from torch import nn

from workbench.core.types import Paper, Placement
from workbench.kernel.contract import WeightPart


class RescaleConfig(Placement):
    """Options of the test's method: only where."""


class Rescale(WeightPart):
    """See the module's docstring."""

    Config, tiny = RescaleConfig, RescaleConfig()
    roles = ("attn.q", "attn.v")
    paper = Paper("none", "https://example.org")
    default_lr = (1e-2, "a test")

    def __init__(self, cfg, site, shared, gen, weight):
        super().__init__(cfg, site, shared, gen, weight)
        self.g = nn.Parameter(torch.zeros(site.d_out))

    def delta(self, weight, ctx):
        return self.g[:, None] * weight

    @staticmethod
    def n_params(cfg, sites):
        return sum(s.d_out for s in sites)
'''


def test_one_new_file_reaches_catalogue_form_plan_contract_and_a_run(tmp_path):
    copy = tmp_path / "repo"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "workspace", "__pycache__", "notebooks"))
    (copy / "workbench/methods/structured/rescale.py").write_text(METHOD)
    env = {**os.environ, "PYTHONPATH": str(copy), "WORKBENCH_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}

    def call(*argv):
        done = subprocess.run([sys.executable, "-P", *argv], cwd=copy, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
        return done.stdout

    entry = next(m for m in json.loads(call("-m", "workbench", "methods", "--json")) if m["key"] == "rescale")
    assert entry["family"] == "structured"
    assert entry["kind"] == "weight"
    assert "roles" in json.dumps(entry["schema"])
    (tmp_path / "spec.yaml").write_text(
        "name: new\nmodel: bundled/minilm\ntask: text_classification\ndata: {source: bundled/docstrings, limit: 40}\n"
        "methods: [rescale]\nbaseline: false\ntraining: {max_steps: 3, batch_size: 8, max_length: 16}\n"
    )
    plan = json.loads(call("-m", "workbench", "plan", str(tmp_path / "spec.yaml"), "--json"))
    assert plan["methods"][0]["problems"] == []
    assert plan["methods"][0]["trainable_params"] == 6 * 2 * 384
    call("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/contract", "-k", "rescale")
    try:
        rows = json.loads(call("-m", "workbench", "run", str(tmp_path / "spec.yaml"), "--json"))["rows"]
    finally:
        call("-m", "workbench", "daemon", "stop")
    assert [r["state"] for r in rows] == ["finished"]
    assert rows[0]["trainable_params"] == 6 * 2 * 384
