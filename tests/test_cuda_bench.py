"""The scripts for a machine with a GPU: that they start, say so where there is none, and that their kernels compile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from throughtime import runtime
from throughtime.codegen.cuda import cuda_skeletons

FOLDER = Path(__file__).parents[1] / "bench" / "cuda"
SCRIPTS = sorted(p.name for p in FOLDER.glob("*.py") if p.name != "common.py")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and the scripts would measure")
@pytest.mark.parametrize("name", SCRIPTS)
def test_without_a_gpu_a_script_says_so(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", name],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "There is no NVIDIA GPU that torch can use here: nothing was measured.\n"


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100"])
def test_the_small_kernels_compile(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    import micro

    files = {**cuda_skeletons(), "micro.cu": micro.TEXT}
    flags = ("-DTT_THREADS=256", "-Werror", "all-warnings")
    code = runtime.build("micro", files, "micro.cu", flags, runtime.find_nvrtc(arch)).path.read_bytes()
    assert b"grid_exchange" in code and (b"cluster_exchange" in code) == (arch != "sm_80")
