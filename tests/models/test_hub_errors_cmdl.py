"""What a user reads when the Hub does not hand out a model: the cause, and what to do."""

import time

import huggingface_hub
import pytest
from hub_double import TOKEN, connected_hub
from segmenters import segformer
from torch import nn
from transformers import TimmBackboneConfig

from cmdl_hf import CMDLAdapter, make_image_processor
from cmdl_hf.inference import load_segmenter
from cmdl_hf.models import explain_hub_error
from cmdl_hf.models.backbone_cmdl import load_timm_weights


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A double of the Hub with a private adapter and a private model, for a client that is not logged in."""
    with connected_hub(monkeypatch, tmp_path) as hub:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(tmp_path / "cache"), raising=False)
        CMDLAdapter(segformer(), attention_size=8).push_to_hub("me/adapter", private=True)
        monkeypatch.delenv("HF_TOKEN")
        yield hub


@pytest.mark.parametrize("load", [CMDLAdapter.from_pretrained, load_segmenter])
class TestEveryDoor:
    @pytest.mark.parametrize("name", ["me/adapter", "me/adaptor"])
    def test_private_or_mistyped(self, hub, load, name):
        with pytest.raises(OSError, match=rf"{name} cannot be loaded: .*it is private: correct .* `hf auth login`"):
            load(name)

    def test_refused_by_the_hub(self, hub, load, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        hub.fail("config.json", 403, times=50)
        with pytest.raises(OSError, match=r"refuses to hand it out \(status 403\): log in with `hf auth login`"):
            load("me/adapter")

    def test_without_a_network(self, load, monkeypatch):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(OSError, match="the Hub cannot be reached: correct the path, or unset HF_HUB_OFFLINE"):
            load("nobody/nothing")


@pytest.mark.parametrize("load", [CMDLAdapter.from_pretrained, load_segmenter])
class TestWithoutAsking:
    """What looks like a path is refused at once; and a Hub that cannot be reached is asked once, not for minutes."""

    @pytest.mark.parametrize(
        "name",
        ["./model", "../model", "/model", "~/model", "a/b/c", "outputs/run", "here/run", "model.safetensors", "a\\b"],
    )
    def test_names_that_look_like_paths(self, hub, load, name, tmp_path, monkeypatch):
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path)
        requests = len(hub.log)
        with pytest.raises(FileNotFoundError, match=r"there is no folder|does not exist: the folder"):
            load(name)
        assert len(hub.log) == requests

    def test_a_folder_here_may_hide_a_name_of_the_hub(self, hub, load, tmp_path, monkeypatch):
        (tmp_path / "me").mkdir()
        monkeypatch.chdir(tmp_path)
        with pytest.raises(FileNotFoundError, match="to take me/model from the Hub, work in another folder"):
            load("me/model")

    def test_nobody_answers(self, hub, load, monkeypatch, caplog):
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
        start = time.perf_counter()
        with pytest.raises(OSError, match=r"nobody/nothing cannot be loaded: .*the Hub cannot be reached: ") as raised:
            load("nobody/nothing")
        assert time.perf_counter() - start < 5
        assert "\n" not in str(raised.value)
        assert "Retrying" not in caplog.text

    def test_what_was_downloaded_is_used_where_nobody_answers(self, hub, load, monkeypatch, tmp_path):
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        kind = "model" if load is load_segmenter else "adapter"
        if kind == "model":
            segformer().save_pretrained(tmp_path / "saved")
            make_image_processor().save_pretrained(tmp_path / "saved")
            api = huggingface_hub.HfApi(endpoint=hub.url)
            api.create_repo("me/model")
            api.upload_folder(repo_id="me/model", folder_path=tmp_path / "saved")
        load(f"me/{kind}")
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
        start = time.perf_counter()
        load(f"me/{kind}")
        assert time.perf_counter() - start < 5


def test_timm_is_not_asked_where_nobody_answers(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("timm.create_model", None)
    config = TimmBackboneConfig(backbone="resnet18.a1_in1k")
    with pytest.raises(OSError, match=r"for resnet18.a1_in1k could not be downloaded \(the Hub cannot be reached\);"):
        load_timm_weights(nn.Identity(), None, config, {})


def test_a_repository_without_an_adapter(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    huggingface_hub.HfApi(endpoint=hub.url).create_repo("me/empty")
    with pytest.raises(OSError, match="me/empty holds no adapter saved with "):
        CMDLAdapter.from_pretrained("me/empty")
    with pytest.raises(OSError, match=r"me/adapter cannot be loaded: .* no such revision"):
        CMDLAdapter.from_pretrained("me/adapter", revision="v2")


def test_a_cache_that_cannot_be_used(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"the cache for the Hub's files cannot be used \(.*file.*set HF_HOME"):
        CMDLAdapter.from_pretrained("me/adapter", cache_dir=tmp_path / "file")


def test_a_name_that_looks_like_a_path(tmp_path):
    with pytest.raises(OSError, match=rf"the folder {tmp_path} has no adaptor; correct the path"):
        CMDLAdapter.from_pretrained(tmp_path / "adaptor")


def test_errors_about_something_else_are_left_alone():
    assert explain_hub_error("me/model", ValueError("a field is missing")) is None
