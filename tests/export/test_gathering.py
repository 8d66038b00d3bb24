"""Export of models whose weights accelerate keeps elsewhere."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from tiny_models import LIVE_AGGREGATION
from varied_models import make_varied

from cmdl_hf import CMDLForSemanticSegmentation
from cmdl_hf.export import TOLERANCE, export_model
from cmdl_hf.export.gathering import copy_to_cpu

OFFLOADED = {
    "cpu_offload": lambda model, _: cpu_offload(model),
    "cpu_offload with buffers": lambda model, _: cpu_offload(model, offload_buffers=True),
    "disk_offload": lambda model, folder: disk_offload(model, folder),
    "disk_offload with buffers": lambda model, folder: disk_offload(model, folder, offload_buffers=True),
}


@pytest.mark.parametrize("offload", OFFLOADED.values(), ids=OFFLOADED)
def test_an_offloaded_model_is_copied_whole(make_model, tmp_path, offload):
    model = make_varied(make_model(**LIVE_AGGREGATION)).eval()
    batch = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = model(batch).logits
        offloaded = offload(model, tmp_path)
        whole = copy_to_cpu(offloaded)
        assert not any(tensor.is_meta for tensor in [*whole.parameters(), *whole.buffers()])
        for each in (whole, offloaded):  # which goes on as before
            torch.testing.assert_close(each(batch).logits, expected, atol=1e-6, rtol=0)
    assert any(tensor.is_meta for tensor in offloaded.parameters())
    assert not any(hasattr(module, "_hf_hook") for module in whole.modules())


@pytest.mark.parametrize("offload_buffers", [False, True])
def test_a_model_loaded_onto_the_disk_is_exported(make_model, tmp_path, offload_buffers):
    folder = tmp_path / "model"
    make_varied(make_model(**LIVE_AGGREGATION)).save_pretrained(folder)
    options = {"device_map": "auto", "max_memory": {"cpu": "60KB"}, "offload_folder": tmp_path / "offload"}
    model = CMDLForSemanticSegmentation.from_pretrained(folder, **options, offload_buffers=offload_buffers).eval()
    assert "disk" in model.hf_device_map.values()
    report = export_model(model, tmp_path / "model.pt2", "torch-export", (64, 64))
    assert report.max_difference < TOLERANCE
    program = torch.export.load(tmp_path / "model.pt2").module()
    batch = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = CMDLForSemanticSegmentation.from_pretrained(folder).eval()(batch).logits
        torch.testing.assert_close(program(batch), expected, atol=TOLERANCE, rtol=0)


def test_weights_that_are_nowhere_are_refused(make_model, tmp_path):
    with pytest.raises(ValueError, match=r"tensors of the model have no values .* load it without device_map"):
        export_model(make_model().to("meta"), tmp_path / "model.pt2", "torch-export")
    assert not list(tmp_path.iterdir())
