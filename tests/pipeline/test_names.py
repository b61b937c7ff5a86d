"""A data set in a folder with the worst of names goes through the pipeline."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.few_images import CLASSES

BIN = Path(sys.executable).parent
WORST = '-user\'s "$(touch hacked)" `touch hacked` {v1} {{wildcards.run}} $HOME *?[a] &;|<>\\ é☃'
OWN = f"extends: bccd\ntitle: own images\ndata: {{kind: coco, classes: {CLASSES}}}\n"


def test_the_worst_of_names(copy, tiny_data, tmp_path):
    folder = copy(tmp_path / "repository")
    (folder / "experiments/scales/farm.yaml").write_text(OWN)
    shutil.copytree(tiny_data, folder / WORST)
    config = ["scale=farm", f"data_root={WORST}", "limit_steps=1", "limit_images=2"]
    result = subprocess.run(
        [BIN / "snakemake", "--cores", "1", "t3_raw_fl", "--config", *config],
        cwd=folder,
        env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert list(folder.glob("results/farm-rehearsal/runs/*/seed0/*/metrics.json"))
    assert not list(tmp_path.rglob("hacked"))
