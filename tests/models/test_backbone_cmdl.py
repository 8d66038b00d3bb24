import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from cmdl_hf import CMDLForSemanticSegmentation


class TestBackboneWeights:
    def make(self, make_config):
        backbone_config = {"model_type": "timm_backbone", "backbone": "resnet18", "out_indices": [3, 4]}
        return CMDLForSemanticSegmentation(make_config(backbone_config=backbone_config))

    def test_a_file_with_a_classifier_too(self, make_config, tmp_path):
        source = timm.create_model("resnet18")
        for module in source.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean)
        save_file(source.state_dict(), tmp_path / "weights.safetensors")
        model = self.make(make_config)
        model.load_backbone_weights(tmp_path / "weights.safetensors")
        backbone = model.backbone._backbone.state_dict()
        assert len(backbone) > 100
        for name, tensor in backbone.items():
            assert torch.equal(tensor, source.state_dict()[name]), name
        assert model.backbone._backbone["layer4"][0].bn1.running_mean.abs().sum() > 0  # not reset

    def test_a_file_of_another_backbone(self, make_config, tmp_path):
        save_file(timm.create_model("resnet10t").state_dict(), tmp_path / "weights.safetensors")
        with pytest.raises(ValueError, match=r"weights.safetensors lacks .* weights of another backbone"):
            self.make(make_config).load_backbone_weights(tmp_path / "weights.safetensors")

    def test_a_file_with_other_shapes(self, make_config, tmp_path):
        save_file(timm.create_model("resnet18", in_chans=4).state_dict(), tmp_path / "weights.safetensors")
        with pytest.raises(ValueError, match=r"conv1.weight has shape \(64, 4, 7, 7\)"):
            self.make(make_config).load_backbone_weights(tmp_path / "weights.safetensors")

    def test_a_file_that_is_no_safetensors_file(self, make_config, tmp_path):
        (tmp_path / "weights.safetensors").write_bytes(b"<html>not found</html>")
        with pytest.raises(ValueError, match=r"weights.safetensors is not a safetensors file"):
            self.make(make_config).load_backbone_weights(tmp_path / "weights.safetensors")

    @pytest.mark.parametrize("name", [".", "missing.safetensors", "no/such/folder.safetensors"])
    def test_a_path_without_a_file(self, make_config, tmp_path, name):
        (tmp_path / "some.safetensors").touch()
        error, message = FileNotFoundError, rf"must be a safetensors file .* there is no {tmp_path / name}; check the"
        if name == ".":
            error, message = (
                ValueError,
                r"is a folder; name the file in it \(safetensors files there: some.safetensors",
            )
        with pytest.raises(error, match=message):
            self.make(make_config).load_backbone_weights(tmp_path / name)

    def test_no_network(self, make_config, monkeypatch, tmp_path):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        message = (
            r"resnet18 could not be downloaded .* model.safetensors of https://huggingface.co/timm/resnet18\.a1_in1k "
            r"elsewhere and name the file: --weights FILE\.safetensors \(in Python: weights='FILE\.safetensors'\)"
        )
        with pytest.raises(OSError, match=message):
            self.make(make_config).load_backbone_weights()

    def test_a_backbone_that_timm_has_no_weights_for(self, make_config):
        model = self.make(make_config)
        model.config.backbone_config.backbone = "test_vit2_nowhere"
        with pytest.raises(ValueError, match="timm has no weights that fit test_vit2_nowhere"):
            model.load_backbone_weights()

    def test_the_timm_weights_of_the_name(self, make_config, monkeypatch):
        source = timm.create_model("resnet18", features_only=True, out_indices=[3, 4])
        model = self.make(make_config)
        calls = []
        monkeypatch.setattr(timm, "create_model", lambda name, **kwargs: calls.append((name, kwargs)) or source)
        monkeypatch.setattr("cmdl_hf.models.backbone_cmdl.can_reach_hub", lambda: True)
        model.load_backbone_weights()
        (name, settings), *others = calls
        assert not others
        assert (name, settings["pretrained"], settings["out_indices"]) == ("resnet18", True, [3, 4])
        assert torch.equal(model.backbone._backbone.conv1.weight, source.conv1.weight)

    def test_a_transformers_backbone(self, make_config, make_model, tmp_path):
        source = make_model()
        source.backbone.save_pretrained(tmp_path)
        model = make_model()
        model.load_backbone_weights(tmp_path)
        for name, tensor in source.backbone.state_dict().items():
            assert torch.equal(model.backbone.state_dict()[name], tensor), name
        with pytest.raises(ValueError, match="name a folder or Hub repository"):
            model.load_backbone_weights()
        make_model().save_pretrained(tmp_path / "whole")  # no backbone's own folder: every name has a prefix
        with pytest.raises(ValueError, match=r"lacks .* tensors of the backbone"):
            model.load_backbone_weights(tmp_path / "whole")
