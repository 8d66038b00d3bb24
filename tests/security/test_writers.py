"""Whatever writes: no link is written through, and no name can be prepared in advance."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from run_folder import SCORES, make_run_folder

from cmdl_hf import CMDLAdapter, make_image_processor
from cmdl_hf.data import load_synthetic, prepare
from cmdl_hf.data.parquet import new_folder, write_parquet
from cmdl_hf.evaluation.results import PredictionWriter
from cmdl_hf.evaluation.scoring import Prediction
from cmdl_hf.files import (
    LinkError,
    append_text,
    make_folder,
    new_file,
    new_folder_in,
    write_files,
    write_image,
    write_text,
)
from cmdl_hf.hub import write_card
from cmdl_hf.inference import predict_files
from cmdl_hf.training.checkpoints import Checkpoints
from cmdl_hf.training.curves import draw_curves
from cmdl_hf.training.folder import RunFolder

GREY = Image.new("L", (4, 4))


@pytest.fixture
def folder(make_model, tmp_path):
    return make_run_folder(tmp_path / "run", make_model(), {"validation": SCORES})


# A target that is a link ------------------------------------------------------------------------------------------

WRITERS = {
    "a.txt": lambda path: write_text(path, "new"),
    "a.png": lambda path: write_image(path, GREY),
    "curves.png": lambda path: draw_curves([{"step": 1, "loss": 1.0}], path),
    "model.bin": lambda path: write_files(path.parent, lambda place: (place / path.name).write_text("new")),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("is_dangling", [False, True])
def test_a_target_that_is_a_link_is_replaced_as_a_name(tmp_path, victim, name, is_dangling):
    path = tmp_path / "out" / name
    path.parent.mkdir()
    path.symlink_to(victim.with_name("new") if is_dangling else victim)
    WRITERS[name](path)
    assert path.is_file()
    assert not path.is_symlink()
    assert [file.name for file in path.parent.iterdir()] == [name]


@pytest.mark.parametrize("name", WRITERS)
def test_a_linked_folder_is_refused_by_name(tmp_path, victim, name):
    (tmp_path / "out").symlink_to(victim.parent)
    with pytest.raises(LinkError, match=rf"{tmp_path}/out is a link to .*home.*name the place itself"):
        WRITERS[name](tmp_path / "out" / name)


def test_names_that_were_once_foreseen_are_of_no_use(tmp_path, victim, monkeypatch):
    for name in (".README.md.tmp", f".README.md.{os.getpid()}.probe", ".writing", ".README.unfinished.md"):
        (tmp_path / name).symlink_to(victim)
    write_text(tmp_path / "README.md", "new")
    write_files(tmp_path, lambda place: (place / "b.txt").write_text("new"))
    names = set()
    monkeypatch.setattr(os, "replace", lambda source, target: names.add(Path(source).name))
    for _ in range(3):
        write_text(tmp_path / "README.md", "newer")
    assert len(names) == 3
    assert all(re.fullmatch(r"\.writing-[0-9a-f]{16}\.md", name) for name in names)


def test_a_name_that_is_taken_after_all_is_not_written_to(tmp_path, victim, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda _: "foreseen")
    (tmp_path / ".writing-foreseen.md").symlink_to(victim.with_name("new"))
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "README.md", "new")
    (tmp_path / ".writing-foreseen").symlink_to(victim.parent)
    with pytest.raises(FileExistsError):
        new_folder_in(tmp_path, ".writing-")


def test_links_below_what_the_user_named_are_refused_and_those_above_followed(tmp_path, victim):
    (tmp_path / "disk").mkdir()
    (tmp_path / "outputs").symlink_to(tmp_path / "disk")  # the user's own way of laying out disks
    out = tmp_path / "outputs" / "run"
    write_text(make_folder(out) / "a.txt", "new")
    assert (tmp_path / "disk" / "run" / "a.txt").read_text() == "new"
    (out / "deep").symlink_to(victim.parent)
    with pytest.raises(LinkError, match="run/deep is a link"):
        make_folder(out / "deep" / "deeper", root=out)
    with pytest.raises(LinkError, match="run/deep is a link"), new_file(out / "deep" / "deeper" / "a.png", out):
        pass


def test_rows_are_not_appended_through_a_link_or_to_a_pipe(tmp_path, victim):
    (tmp_path / "metrics.jsonl").symlink_to(victim)
    with pytest.raises(LinkError, match=r"metrics\.jsonl is a link"):
        append_text(tmp_path / "metrics.jsonl", "{}\n")
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises((OSError, ValueError)):
        append_text(tmp_path / "pipe.jsonl", "{}\n")
    append_text(tmp_path / "rows.jsonl", "1\n")
    append_text(tmp_path / "rows.jsonl", "2\n")
    assert (tmp_path / "rows.jsonl").read_text() == "1\n2\n"


# The places that write --------------------------------------------------------------------------------------------


def test_a_card_is_not_written_through_links(folder, victim):
    (folder / ".README.md.tmp").symlink_to(victim)
    (folder / "README.md").symlink_to(victim.with_name("new"))
    assert "library_name" in write_card(folder).read_text()
    assert not (folder / "README.md").is_symlink()


def test_predictions_are_not_written_through_links(make_model, tmp_path, victim):
    make_model().save_pretrained(tmp_path / "model")
    make_image_processor().save_pretrained(tmp_path / "model")
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for name in ("a.jpg", "deep/b.jpg"):
        Image.new("RGB", (32, 32)).save(tmp_path / "images" / name)
    out = tmp_path / "out"
    out.mkdir()
    for name in ("a.png", "a_overlay.jpg", "summary.json", ".summary.json.tmp"):
        (out / name).symlink_to(victim.with_name(name))
    (out / "deep").symlink_to(victim.parent)
    failures = predict_files(tmp_path / "model", [tmp_path / "images"], out)
    assert [path.name for path in failures] == ["b.jpg"]
    assert "deep is a link to" in failures[tmp_path / "images/deep/b.jpg"]
    for name in ("a.png", "a_overlay.jpg", "summary.json"):
        assert (out / name).is_file()
        assert not (out / name).is_symlink()
    with pytest.raises(LinkError, match="deep is a link"):
        predict_files(tmp_path / "model", [tmp_path / "images"], out / "deep")


def _prediction(id_):
    return Prediction(id=id_, class_ids=torch.zeros(2, 2, dtype=torch.long), labels=None)


def test_ids_that_lead_out_of_the_folder_stay_in_it_and_links_are_refused(tmp_path, victim):
    writer = PredictionWriter(tmp_path / "predictions", load_synthetic(1, 1, 1, size=(16, 16)).label_table)
    for id_ in ("../../home/a", f"{tmp_path}/home/b", "../c"):
        writer(_prediction(id_))
    assert sorted(path.name for path in (tmp_path / "predictions").rglob("*.png")) == ["a.png", "b.png", "c.png"]
    (tmp_path / "predictions" / "linked").symlink_to(victim.parent)
    with pytest.raises(LinkError, match="linked is a link"):
        writer(_prediction("linked/d"))


def test_data_sets_are_not_written_through_links(tmp_path, victim, monkeypatch):
    scenes = load_synthetic(1, 1, 1, size=(16, 16))
    (tmp_path / "out").symlink_to(victim.parent)
    with pytest.raises(LinkError, match="out is a link"):
        new_folder(tmp_path / "out")
    written = write_parquet(scenes, tmp_path / "new")
    assert written.splits["train"].num_examples == 1
    assert not list((tmp_path / "new").rglob(".*"))
    with pytest.raises(LinkError, match="out is a link"):
        prepare("camvid", _camvid(tmp_path), tmp_path / "out")


def _camvid(root):
    for split in ("train", "val", "test"):
        for folder, image in ((split, Image.new("RGB", (8, 6))), (f"{split}annot", Image.new("L", (8, 6)))):
            (root / "CamVid" / folder).mkdir(parents=True)
            image.save(root / "CamVid" / folder / f"{split}.png")
    return root / "CamVid"


def test_a_model_is_not_saved_through_links(make_model, tmp_path, victim):
    model = make_model()
    for name in ("config.json", "modeling_cmdl.py", "model.safetensors", "anything"):
        place = tmp_path / f"with {name}"
        place.mkdir()
        (place / name).symlink_to(victim)
        for save in (model.save_pretrained, model.config.save_pretrained):
            with pytest.raises(OSError, match=rf"{name} is a link to .*remove the link"):
                save(place)
    (tmp_path / "linked").symlink_to(victim.parent)
    with pytest.raises(OSError, match="linked is a link"):
        model.save_pretrained(tmp_path / "linked")


def test_an_adapter_is_not_saved_through_links(tmp_path, victim):
    segmenter = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 5, 1))
    adapter = CMDLAdapter(segmenter, "1", num_labels=5)
    place = tmp_path / "adapter"
    place.mkdir()
    (place / "model.safetensors").symlink_to(victim)
    with pytest.raises(OSError, match=r"model\.safetensors is a link"):
        adapter.save_pretrained(place)


# The folder of a run ----------------------------------------------------------------------------------------------


def _write(text):
    return lambda place: (place / "model.bin").write_text(text)


def test_checkpoints_are_not_written_through_links_and_none_is_removed_there(tmp_path, victim):
    checkpoints = Checkpoints(tmp_path / "checkpoints", total_limit=1)
    (tmp_path / "checkpoints").mkdir()
    others = tmp_path / "others"
    others.mkdir()
    (others / "manifest.json").write_text("{}")
    for name in ("step-00000001.unfinished", "step-00000001", "step-00000000"):
        (tmp_path / "checkpoints" / name).symlink_to(others)
    checkpoints.save(1, _write("weights"), {})
    assert (tmp_path / "checkpoints/step-00000001/model.bin").read_text() == "weights"
    assert [path.name for path in others.iterdir()] == ["manifest.json"]
    assert not any(path.is_symlink() for path in (tmp_path / "checkpoints").iterdir())

    linked = Checkpoints(tmp_path / "linked")
    (tmp_path / "linked").symlink_to(victim.parent)
    with pytest.raises(OSError, match="linked is a link to"):
        linked.save(1, _write("weights"), {})


def test_a_checkpoint_that_leads_out_of_its_folder_is_none(tmp_path, victim, caplog):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    whole = checkpoints.save(1, _write("weights"), {})
    (whole / "model.bin").unlink()
    (whole / "model.bin").symlink_to(victim)
    assert checkpoints.newest() is None
    assert "model.bin leads out of it" in caplog.text
    manifest = json.loads((whole / "manifest.json").read_text())
    (whole / "manifest.json").write_text(json.dumps(manifest | {"files": {"../../home/id_rsa": [1, 1]}}))
    assert checkpoints.newest() is None
    assert "id_rsa leads out of it" in caplog.text
    (tmp_path / "checkpoints/step-00000002").symlink_to(whole)
    checkpoints.newest()
    assert "it is a link" in caplog.text


@pytest.mark.parametrize("kind", ["link", "dangling link", "second name", "pipe"])
def test_a_lock_that_is_another_file_is_refused(tmp_path, victim, kind):
    path = tmp_path / "run"
    path.mkdir()
    lock = path / ".lock"
    make = {
        "link": lambda: lock.symlink_to(victim),
        "dangling link": lambda: lock.symlink_to(victim.with_name("new")),
        "second name": lambda: os.link(victim, lock),
        "pipe": lambda: os.mkfifo(lock),
    }
    make[kind]()
    with pytest.raises((OSError, ValueError), match=r"run/\.lock (is a link|is a second name|must be a regular)"):
        RunFolder(path, {"benchmark": "camvid"}, None)


def test_a_lock_that_is_put_there_late_is_refused_too(tmp_path, victim):
    run = RunFolder(tmp_path / "run", {"benchmark": "camvid"}, None)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(victim)
    with pytest.raises(OSError, match=r"\.lock is a link"):
        run.claim({})


def test_a_run_in_a_linked_folder_is_refused(tmp_path, victim):
    (tmp_path / "run").symlink_to(victim.parent)
    with pytest.raises(LinkError, match="run is a link to"):
        RunFolder(tmp_path / "run", {"benchmark": "camvid"}, None)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "runs").symlink_to(victim.parent)  # which trackers write to
    with pytest.raises(LinkError, match="new/runs is a link to"):
        RunFolder(tmp_path / "new", {"benchmark": "camvid"}, None)


def test_the_floor_of_filelock_follows_no_links():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert re.search(r'"filelock>=3\.(20\.[3-9]|2[1-9])', text)


def test_only_the_writer_writes():
    """Every place that writes goes through `cmdl_hf/files.py`; others are named here with the reason."""
    writes = re.compile(
        r"\.write_text\(|\.write_bytes\(|open\([^)]*[\"'][wax]b?[\"']|\.savefig\(|\.to_parquet\(|json\.dump\(|\.mkdir\("
        r"|copyfile|copy2|\.touch\(|\.save\(|torch\.save"
    )
    root = Path(__file__).parents[2]
    known = {
        "hub/sending.py": "into a snapshot of a name that nobody can foresee",
        "data/reading.py": "into memory",
        "explore/pictures.py": "into memory",
        "inference/segmentation.py": "into memory",
        "inference/calling.py": "an example in a docstring",
        "data/own_preparing.py": "into a new folder of a name that nobody can foresee",
        "models/context_registry_cmdl.py": "beside a model, after refuse_links",
        "models/adapter_hub_cmdl.py": "beside a model, after refuse_links",
    }
    found = set()
    for file in [*(root / "cmdl_hf").rglob("*.py"), *(root / "examples/space").rglob("*.py")]:
        for line in file.read_text().splitlines():
            allowed = (
                "unfinished" in line or "checkpoints.save(" in line or line.lstrip().startswith(("#", '"', ">>>"))
            )
            if writes.search(line) and not allowed:
                found.add(file.relative_to(root / "cmdl_hf").as_posix())
    assert found <= {"files.py", "export/__init__.py", *known}, found - set(known)


def test_an_image_of_the_writer_is_whole_or_not_there(tmp_path):
    write_image(tmp_path / "a.png", Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)))
    with pytest.raises(OSError, match="cannot write mode"):
        write_image(tmp_path / "a.jpg", Image.new("RGBA", (4, 4)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
