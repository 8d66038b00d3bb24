import json
from pathlib import Path

import pytest
from process_groups import run_script

SCRIPT = Path(__file__).parents[2] / "examples" / "adapter_comparison.py"


@pytest.mark.slow
def test_the_arms_are_scored_and_not_repeated(tmp_path):
    rows = tmp_path / "rows.jsonl"
    words = ["--output", str(rows), "--max-steps", "1", "--num-seeds", "1", "--segmenters", "smp FPN, resnet18"]
    printed = run_script(tmp_path / "printed.txt", SCRIPT, *words)
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [row["arm"] for row in found] == ["alone", "control", "CMDL"]
    cells = [f"{100 * row['mean_iou']:.1f}" for row in found]
    table = printed.splitlines()[-1]
    assert [cell.split()[0] for cell in table.split("|")[2:-1]] == cells
    assert run_script(tmp_path / "again.txt", SCRIPT, *words).splitlines()[-1] == table
    assert len(rows.read_text().splitlines()) == 3
