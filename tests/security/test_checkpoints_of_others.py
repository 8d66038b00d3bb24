"""Checkpoints of a run: what accelerate pickles is read without running anything in it."""

import os
import pickle

import pytest
import torch
from accelerate import Accelerator


class Attack:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("name", ["optimizer.bin", "random_states_0.pkl"])
def test_a_pickle_in_a_checkpoint_is_not_run(tmp_path, name):
    accelerator = Accelerator(cpu=True)
    model = torch.nn.Linear(2, 2)
    accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    accelerator.save_state(str(tmp_path / "state"))
    accelerator.load_state(str(tmp_path / "state"))
    (tmp_path / "state" / name).write_bytes(pickle.dumps(Attack(f"touch {tmp_path}/trace")))
    try:
        accelerator.load_state(str(tmp_path / "state"))
    except (pickle.UnpicklingError, RuntimeError):
        pass  # accelerate goes on without random states that it cannot read
    else:
        assert name.startswith("random")
    assert not (tmp_path / "trace").exists()
