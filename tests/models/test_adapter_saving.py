"""Adapters are saved, loaded and shared, with how to build the segmenter again."""

import copy
import json
import sys

import pytest
import torch
from hub_double import connected_hub
from huggingface_hub import ModelCard
from process_groups import run_process
from segmenters import NUM_LABELS, SmallSegmenter, segformer, small_fcn, smp_model
from tiny_models import LIVE_AGGREGATION

from cmdl_hf import CMDLAdapter


def load_and_run(folders, images):
    for folder in folders:
        model = CMDLAdapter.from_pretrained(folder)
        with torch.no_grad():
            torch.save(model(images, labels=torch.zeros(2, 64, 96, dtype=torch.int64)).logits, folder / "logits.pt")


@pytest.fixture
def train(make_batch):
    """Take a few steps, in which weights, statistics and memory move."""

    def train(model):
        pixel_values, labels = make_batch(2, 64, 64, NUM_LABELS)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(2):
            optimizer.zero_grad()
            model.train()(pixel_values, labels=labels).loss.backward()
            optimizer.step()
        return model.eval()

    return train


def adapt(segmenter, **options):
    return CMDLAdapter(segmenter, **({"num_distributions": 3, "attention_size": 8} | LIVE_AGGREGATION | options))


def assert_same(loaded, model):
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    pixel_values, labels = torch.randn(2, 3, 64, 96), torch.randint(0, NUM_LABELS, (2, 64, 96))
    with torch.no_grad():
        output, expected = loaded(pixel_values, labels=labels), model.eval()(pixel_values, labels=labels)
    assert torch.equal(output.logits, expected.logits)
    assert output.loss_dict == expected.loss_dict


class TestRoundTrip:
    def test_transformers_and_smp_rebuild_themselves_in_a_new_process_too(self, train, tmp_path):
        images, expected = torch.randn(2, 3, 64, 96), {}
        for name, segmenter in {"transformers": segformer(), "smp": smp_model("FPN", decoder_dropout=0.1)}.items():
            model = train(adapt(segmenter, class_weights=[1.0, 2.0, 0.5, 1.0, 0.0], hidden_size=24))
            assert model.memory_bank.num_updates.sum() > 0
            model.save_pretrained(tmp_path / name)
            assert_same(CMDLAdapter.from_pretrained(tmp_path / name), model)
            with torch.no_grad():
                expected[name] = model(images, labels=torch.zeros(2, 64, 96, dtype=torch.int64)).logits
        run_process(load_and_run, [tmp_path / name for name in expected], images)
        for name, logits in expected.items():
            assert torch.equal(torch.load(tmp_path / name / "logits.pt", weights_only=True), logits)

    def test_torchvision_and_others_take_the_segmenter_of_the_caller(self, train, tmp_path):
        model = train(adapt(small_fcn()).to(memory_format=torch.channels_last))
        model.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"saved from a torchvision\.models\..*\.FCN, which cannot be rebuilt "):
            CMDLAdapter.from_pretrained(tmp_path)
        loaded = CMDLAdapter.from_pretrained(tmp_path, segmenter=small_fcn())
        assert_same(loaded, model.to(memory_format=torch.contiguous_format))
        with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got str"):
            CMDLAdapter.from_pretrained(tmp_path, segmenter="fcn_resnet50")

    def test_a_copy_and_a_loaded_adapter_are_saved_like_the_first(self, train, tmp_path):
        model = train(adapt(segformer()))
        copy.deepcopy(model).save_pretrained(tmp_path / "copy")
        again = CMDLAdapter.from_pretrained(tmp_path / "copy")
        again.save_pretrained(tmp_path / "again")
        assert_same(CMDLAdapter.from_pretrained(tmp_path / "again"), model)
        configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("copy", "again")]
        assert configs[0] == configs[1]

    def test_what_is_loaded_is_found_where_it_was_and_takes_the_options_it_had(self, train, tmp_path, caplog):
        options = {"use_hard_voting": True, "prototype_loss_weight": 0, "memory_momentum": 0.9}
        model = train(adapt(SmallSegmenter(), **options))
        model.save_pretrained(tmp_path)
        caplog.clear()
        loaded = CMDLAdapter.from_pretrained(tmp_path, segmenter=SmallSegmenter())
        assert "classifier" not in caplog.text
        assert (loaded.classifier_name, loaded.config.to_dict()) == (model.classifier_name, model.config.to_dict())
        train(loaded)
        assert loaded.remove() is loaded.segmenter

    def test_a_card_says_how_to_load_and_keeps_what_people_wrote(self, tmp_path):
        model = adapt(segformer())
        model.save_pretrained(tmp_path)
        card = ModelCard.load(tmp_path / "README.md")
        assert (card.data.library_name, card.data.pipeline_tag) == ("cmdl_hf", "image-segmentation")
        assert {"cmdl", "semantic-segmentation"} <= set(card.data.tags)
        assert "CMDLAdapter.from_pretrained(" in card.text
        (tmp_path / "README.md").write_text("# Mine\n")
        model.save_pretrained(tmp_path)
        assert (tmp_path / "README.md").read_text() == "# Mine\n"


class TestRefused:
    @pytest.mark.parametrize("change", [{"num_distributions": 5}, {"num_labels": 7}, {"classifier": "x"}, {"kind": 1}])
    def test_other_options_than_the_saved(self, tmp_path, change):
        adapt(segformer()).save_pretrained(tmp_path)
        with pytest.raises(
            TypeError, match=f"a saved adapter keeps its options, so .* cannot change {next(iter(change))};"
        ):
            CMDLAdapter.from_pretrained(tmp_path, **change)

    def test_a_network_of_ours(self, make_model, tmp_path):
        make_model().save_pretrained(tmp_path)
        with pytest.raises(
            ValueError, match=r"Load complete networks with CMDLForSemanticSegmentation\.from_pretrained"
        ):
            CMDLAdapter.from_pretrained(tmp_path)

    def test_weights_that_cannot_be_read(self, tmp_path):
        adapt(segformer()).save_pretrained(tmp_path)
        file = tmp_path / "model.safetensors"
        file.write_bytes(file.read_bytes()[:5])
        with pytest.raises(OSError, match=r"model\.safetensors cannot be read"):
            CMDLAdapter.from_pretrained(tmp_path)
        file.unlink()
        with pytest.raises(OSError, match=r"model\.safetensors cannot be read"):
            CMDLAdapter.from_pretrained(tmp_path)

    def test_a_segmenter_that_will_have_to_be_given_is_told_of_when_saving(self, tmp_path, caplog):
        adapt(segformer()).save_pretrained(tmp_path / "own")
        assert "segmenter=" not in caplog.text
        adapt(SmallSegmenter()).save_pretrained(tmp_path / "small")
        assert "CMDLAdapter.from_pretrained(..., segmenter=...)" in caplog.text

    def test_a_folder_without_configuration(self, tmp_path):
        with pytest.raises(ValueError, match=r"holds no adapter saved with CMDLAdapter\.save_pretrained"):
            CMDLAdapter.from_pretrained(tmp_path)

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ({"library": "this", "name": "s"}, "cannot be rebuilt from its configuration"),
            ({"library": "transformers", "name": "pipeline"}, "a pipeline of transformers, which the installed"),
        ],
    )
    def test_files_do_not_choose_what_is_imported(self, tmp_path, spec, message):
        adapt(segformer()).save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        config["segmenter"] |= spec
        (tmp_path / "config.json").write_text(json.dumps(config))
        sys.modules.pop("this", None)
        with pytest.raises(ValueError, match=message):
            CMDLAdapter.from_pretrained(tmp_path)
        assert "this" not in sys.modules

    def test_weights_of_another_segmenter(self, tmp_path):
        adapt(SmallSegmenter(hidden_size=12)).save_pretrained(tmp_path)
        with pytest.raises(RuntimeError, match="size mismatch"):
            CMDLAdapter.from_pretrained(tmp_path, segmenter=SmallSegmenter(hidden_size=16))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A double of the Hub that this process's client is logged in to."""
    with connected_hub(monkeypatch, tmp_path) as hub:
        yield hub


def test_through_the_hub(hub, train, tmp_path):
    model = train(adapt(segformer()))
    model.push_to_hub("me/adapter", private=True)
    repo = hub.repos["models", "me/adapter"]
    assert repo.private
    assert {"config.json", "model.safetensors", "README.md"} <= repo.files.keys()
    first = repo.commits[-1][0]
    assert_same(CMDLAdapter.from_pretrained("me/adapter", cache_dir=tmp_path), model)

    changed = train(copy.deepcopy(model))
    changed.push_to_hub("me/adapter")
    assert_same(CMDLAdapter.from_pretrained("me/adapter", cache_dir=tmp_path), changed)
    assert_same(CMDLAdapter.from_pretrained("me/adapter", cache_dir=tmp_path, revision=first), model)
    offline = CMDLAdapter.from_pretrained("me/adapter", cache_dir=tmp_path, revision=first, local_files_only=True)
    assert_same(offline, model)
