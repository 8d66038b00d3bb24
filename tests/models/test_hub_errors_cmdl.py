"""What a user reads when the Hub does not hand out a model: the cause, and what to do."""

import huggingface_hub
import pytest
from hub_double import TOKEN, connected_hub
from segmenters import segformer

from cmdl_hf import CMDLAdapter
from cmdl_hf.inference import load_segmenter
from cmdl_hf.models import explain_hub_error


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
        with pytest.raises(OSError, match="the Hub cannot be reached: correct the path, connect to the network"):
            load("nobody/nothing")


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
    with pytest.raises(OSError, match=rf"the folder {tmp_path} has no adaptor, and this is no name on the Hub"):
        CMDLAdapter.from_pretrained(tmp_path / "adaptor")


def test_errors_about_something_else_are_left_alone():
    assert explain_hub_error("me/model", ValueError("a field is missing")) is None
