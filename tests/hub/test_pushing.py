"""Pushing and loading with the real huggingface_hub client, against a double of the Hub on the loopback interface."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hub_double import TOKEN, HubDouble
from PIL import Image
from run_folder import LEFT_AT_HOME, SCORES, make_run_folder

from cmdl_hf.cli import main
from cmdl_hf.data import load_synthetic
from cmdl_hf.data.parquet import write_parquet
from cmdl_hf.hub import HubPusher, check_can_push, push, push_dataset, uploading
from cmdl_hf.hub.pushing import preview_push

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's, for LFS


@pytest.fixture
def hub():
    with HubDouble() as hub:
        yield hub


@pytest.fixture
def client(hub, monkeypatch, tmp_path):
    """Point this process's client at the double, logged in; it reads these names at every request."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(uploading, "RETRY_WAITS", (0.01, 0.01, 0.01))
    impatient = types.SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None})
    monkeypatch.setattr(huggingface_hub.utils._http, "time", impatient)
    yield
    huggingface_hub.close_session()


@pytest.fixture
def folder(make_model, tmp_path):
    return make_run_folder(tmp_path / "run", make_model(), {"validation": SCORES})


@pytest.fixture(autouse=True)
def _no_token_anywhere(request, tmp_path, caplog, capfd):
    """No token is printed, logged, pushed or written, whatever happens."""
    caplog.set_level(logging.DEBUG)
    hub = request.getfixturevalue("hub") if "hub" in request.fixturenames else None
    yield
    if hub is not None:
        printed = capfd.readouterr()
        written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        stored = hub.stored_bytes()
        logged = "\n".join(str((record.getMessage(), record.exc_info)) for record in caplog.get_records("call"))
        assert f"POST {hub.url}/api/" in logged or not hub.log  # the client's own records are among them
        for text in (printed.out, printed.err, logged):
            assert TOKEN not in text
        for content in written + stored:
            assert TOKEN.encode() not in content


def _contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _assert_holds(repo, folder):
    """The repository holds what of the folder belongs there, byte for byte."""
    expected = {name: content for name, content in _contents(folder).items() if name not in LEFT_AT_HOME}
    assert {"config.json", "model.safetensors", "last/model.safetensors", "README.md", "recipe.yaml"} <= set(expected)
    assert repo.files == expected


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("lfs_suffixes", [(), (".safetensors",)])
def test_a_folder_is_pushed_and_pushed_unchanged(hub, folder, monkeypatch, lfs_suffixes):
    hub.lfs_suffixes = lfs_suffixes
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", bool(lfs_suffixes))
    before = _contents(folder)
    assert push(folder, "me/toy", message="First") == f"{hub.url}/me/toy"
    repo = hub.repos["models", "me/toy"]
    _assert_holds(repo, folder)
    assert not repo.private
    assert repo.messages == ["First"]
    assert _contents(folder) == before | {"README.md": repo.files["README.md"]}

    assert push(folder, "me/toy") == f"{hub.url}/me/toy"
    assert repo.messages == ["First"]

    (folder / "scores.json").write_text(json.dumps({"test": SCORES}))
    push(folder, "me/toy", message="Second")
    assert repo.messages == ["First", "Second"]
    _assert_holds(repo, folder)


def _save_shards(model, folder):
    (folder / "model.safetensors").unlink(missing_ok=True)
    model.save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("is_back", [False, True])
def test_weights_of_another_shape_are_replaced(hub, folder, make_model, is_back):
    (folder / "notes.txt").touch()
    push(folder, "me/toy")
    repo = hub.repos["models", "me/toy"]
    hub.repos["models", "me/toy"].commit("by hand", repo.files | {"notes.md": b"mine", "pytorch_model.bin": b"old"})
    _save_shards(make_model(), folder)
    push(folder, "me/toy", message="Shards")
    assert repo.messages[-1] == "Shards"
    assert repo.files["notes.md"] == b"mine"
    assert "model.safetensors.index.json" in repo.files
    assert not {"model.safetensors", "pytorch_model.bin"} & set(repo.files)
    assert "last/model.safetensors" in repo.files
    if is_back:
        for path in folder.glob("model*.safetensors*"):
            path.unlink()
        make_model().save_pretrained(folder)
        push(folder, "me/toy")
        assert [name for name in repo.files if name.startswith("model") and "safetensors" in name] == [
            "model.safetensors"
        ]


@pytest.mark.usefixtures("client")
def test_a_lost_answer_does_not_remove_twice(hub, folder, make_model):
    push(folder, "me/toy")
    _save_shards(make_model(), folder)
    hub.fail("POST .*/commit/", "lost")
    push(folder, "me/toy")
    assert "model.safetensors" not in hub.repos["models", "me/toy"].files


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("none", "contains no weights: it has no model.safetensors; save the model there"),
        ("both", "holds weights of two shapes, model.safetensors and model-00001-of-.*; remove those that are not"),
        ("a shard missing", "lacks 1 of its files of weights, such as model-00002-of-.*; save the model again"),
        ("no index", r"has model-00001-of-\S+ but no model.safetensors.index.json; save the model again"),
    ],
)
def test_a_folder_without_its_weights_is_not_pushed(hub, folder, make_model, kind, message):
    whole = (folder / "model.safetensors").read_bytes()
    _save_shards(make_model(), folder)
    if kind == "none":
        for path in folder.glob("model*.safetensors*"):
            path.unlink()
    elif kind == "both":
        (folder / "model.safetensors").write_bytes(whole)
    elif kind == "no index":
        (folder / "model.safetensors.index.json").unlink()
    else:
        next(folder.glob("model-00002-*")).unlink()
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        push(folder, "me/toy")
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        preview_push(folder)
    assert ("models", "me/toy") not in hub.repos


@pytest.mark.usefixtures("client")
def test_words_that_people_wrote_into_a_card_stay(hub, folder, caplog):
    push(folder, "me/toy")
    repo = hub.repos["models", "me/toy"]
    generated = repo.files["README.md"]
    theirs = generated + b"\nWords from the site.\n"
    repo.commit("Edit on the site", repo.files | {"README.md": theirs})
    (folder / "scores.json").write_text(json.dumps({"test": SCORES}))
    push(folder, "me/toy")
    assert repo.files["README.md"] == theirs
    assert repo.files["scores.json"] == (folder / "scores.json").read_bytes()
    assert "was changed on the Hub and is kept" in caplog.text

    (folder / "README.md").write_text("# My words\n")
    push(folder, "me/toy")
    assert repo.files["README.md"] == b"# My words\n"

    repo.commit("As the site makes it", repo.files | {"README.md": b"---\nlicense: mit\n---\n"})
    (folder / "README.md").unlink()
    push(folder, "me/toy")
    _assert_holds(repo, folder)


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(
    ("request_", "kind", "times"),
    [
        ("POST /api/validate-yaml", 502, 1),
        ("POST /api/repos/create", 500, 2),
        ("POST /api/repos/create", "reset", 2),
        ("GET .*/resolve/main/README.md", 500, 2),
        ("POST .*/preupload/", 503, 2),
        ("POST .*/preupload/", "reset", 7),
        ("POST .*/commit/", 500, 2),
        ("POST .*/commit/", "reset", 2),
        ("POST .*/commit/", "lost", 1),
        ("POST .*/commit/", "echo", 1),
        ("POST .*/commit/", 412, 2),
        ("PUT /lfs/", 500, 2),
        ("POST .*/lfs/objects/batch", "reset", 2),
    ],
)
def test_a_push_outlasts_trouble(hub, folder, monkeypatch, request_, kind, times):
    if "lfs" in request_:
        hub.lfs_suffixes = (".safetensors",)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    hub.fail(request_, kind, times)
    push(folder, "me/toy", message="Only one")
    assert len(hub.requests(request_)) > times or kind == "lost"
    assert hub.repos["models", "me/toy"].messages == ["Only one"]
    _assert_holds(hub.repos["models", "me/toy"], folder)


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(
    ("status", "cure"),
    [(401, "does not accept the token .*hf auth login"), (403, "right to write"), (404, "check the name")],
)
def test_a_refusal_is_not_repeated_and_names_the_cure(hub, folder, status, cure):
    hub.fail("POST .*/commit/", status)
    with pytest.raises(PermissionError, match=f"me/toy: .*{cure}"):
        push(folder, "me/toy")
    assert hub.requests("/commit/") == [status]
    push(folder, "me/toy")
    _assert_holds(hub.repos["models", "me/toy"], folder)


@pytest.mark.usefixtures("client")
def test_lasting_trouble_is_an_error_that_loses_nothing(hub, folder):
    before = _contents(folder)
    hub.fail("POST .*/commit/", 500, times=1000)
    with pytest.raises(ConnectionError, match=r"me/toy: .* with 500: made to fail; gave up after 4 attempts"):
        push(folder, "me/toy")
    assert {name: content for name, content in _contents(folder).items() if name != "README.md"} == before


@pytest.mark.usefixtures("client")
def test_who_may_not_write_learns_it_before_training(hub, monkeypatch):
    with pytest.raises(PermissionError, match=r"they/toy: the token may not write .*ask they for the right"):
        check_can_push("they/toy")
    check_can_push("me/toy", private=True)
    assert hub.repos["models", "me/toy"].private
    check_can_push("me/public")
    with pytest.raises(ValueError, match="exists and is public"):
        check_can_push("me/public", private=True)
    for name in ("toy", "me/to/y", "me/to y", "/toy"):
        with pytest.raises(ValueError, match="name"):
            check_can_push(name)
    hub.organizations.remove("me")  # a repository that is there and can be read
    with pytest.raises(PermissionError, match="may not write"):
        check_can_push("me/public")
    monkeypatch.setenv("HF_TOKEN", "hf_anotherDUMMY")
    with pytest.raises(PermissionError, match="does not accept the token"):
        check_can_push("me/new")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PermissionError, match=r"you are not logged in.*hf auth login"):
        check_can_push("me/new")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE"):
        check_can_push("me/new")


@pytest.mark.usefixtures("client")
def test_a_hub_out_of_reach_does_not_keep_a_run_from_starting(hub, folder, caplog):
    hub.fail("POST /api/repos/create", "reset")
    pusher = HubPusher(folder, "me/toy")
    assert "not known yet" in caplog.text
    pusher.push("Step 1")
    assert pusher.finish() == f"{hub.url}/me/toy"
    _assert_holds(hub.repos["models", "me/toy"], folder)


@pytest.fixture
def gate(monkeypatch):
    """Holds commits back until it is opened."""
    gate = threading.Event()
    create_commit = huggingface_hub.HfApi.create_commit

    def wait_and_commit(*args, **kwargs):
        assert gate.wait(30)
        return create_commit(*args, **kwargs)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", wait_and_commit)
    return gate


def _replace(path, content):
    path.with_name(".new").write_bytes(content)
    os.replace(path.with_name(".new"), path)


@pytest.mark.usefixtures("client")
def test_a_run_goes_on_while_its_folder_is_pushed_as_it_was(hub, folder, gate):
    pusher = HubPusher(folder, "me/toy", private=True)
    pusher.push("Step 1")
    first = (folder / "model.safetensors").read_bytes()
    for step in (2, 3):  # the upload of step 1 is not over
        _replace(folder / "model.safetensors", b"weights of step %d" % step)
        (folder / "metrics.jsonl").write_text(f"rows up to step {step}")
        pusher.push(f"Step {step}")
    gate.set()
    assert pusher.finish() == f"{hub.url}/me/toy"
    repo = hub.repos["models", "me/toy"]
    assert repo.private
    assert repo.messages == ["Step 1", "Step 3"]  # step 2 was overtaken
    assert repo.commits[1][2]["model.safetensors"] == first
    assert repo.commits[1][2]["metrics.jsonl"] == b"bytes of metrics.jsonl"
    _assert_holds(repo, folder)
    assert not list(folder.glob(".push-*"))


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(("kind", "times"), [(401, 1), (403, 1), (500, 4), ("reset", 4), (412, 4)])
def test_a_push_that_fails_is_logged_and_made_up_for(hub, folder, caplog, kind, times):
    pusher = HubPusher(folder, "me/toy")
    hub.fail("POST .*/commit/", kind, times)
    pusher.push("Step 1")
    while pusher._thread is not None:
        time.sleep(0.01)
    assert "not pushed (Step 1), tried again later" in caplog.text
    assert len(hub.requests("/commit/")) == times
    (folder / "metrics.jsonl").write_text("rows up to step 2")
    pusher.push("Step 2")
    pusher.finish()
    repo = hub.repos["models", "me/toy"]
    assert repo.messages == ["Step 2"]
    _assert_holds(repo, folder)


@pytest.mark.usefixtures("client")
def test_finish_pushes_what_is_missing_or_says_how_to(hub, folder):
    pusher = HubPusher(folder, "me/toy", private=True)
    hub.fail("POST .*/commit/", 401, 2)
    pusher.push("Step 1")
    with pytest.raises(PermissionError, match=rf"The model is still in .*cmdl push {folder} me/toy --private"):
        pusher.finish()
    assert pusher.finish() == f"{hub.url}/me/toy"
    _assert_holds(hub.repos["models", "me/toy"], folder)


@pytest.mark.usefixtures("client")
def test_what_is_to_be_private_never_goes_where_all_can_see_it(hub, folder):
    check_can_push("me/public")
    hub.fail("POST /api/repos/create", 500)
    pusher = HubPusher(folder, "me/public", private=True)
    pusher.push("Step 1")
    with pytest.raises(ValueError, match=r"(?s)exists and is public.*Push it later: cmdl push"):
        pusher.finish()
    assert hub.repos["models", "me/public"].messages == []


@pytest.mark.usefixtures("client")
def test_a_folder_that_cannot_be_read_now_does_not_stop_the_run(hub, folder, caplog):
    (folder / ".push-killed").mkdir()
    pusher = HubPusher(folder, "me/toy")
    scores = (folder / "scores.json").read_bytes()
    (folder / "scores.json").write_text("{")
    pusher.push("Step 1")
    assert "not pushed (Step 1)" in caplog.text
    (folder / "scores.json").write_bytes(scores)
    pusher.finish()
    _assert_holds(hub.repos["models", "me/toy"], folder)


@pytest.mark.usefixtures("client")
def test_a_data_set_outlasts_trouble_and_loads_by_name(hub, tmp_path, run_client):
    scenes = load_synthetic(num_train=3, num_validation=1, num_test=1, size=(16, 16))
    write_parquet(scenes, tmp_path / "scenes")
    hub.fail("POST .*/commit/", 412)
    hub.fail("POST /api/repos/create", 500)
    assert push_dataset(tmp_path / "scenes", "me/scenes") == f"{hub.url}/datasets/me/scenes"
    repo = hub.repos["datasets", "me/scenes"]
    assert repo.private
    assert repo.files == _contents(tmp_path / "scenes")
    run_client(
        """
import datasets, numpy
scenes = datasets.load_dataset("me/scenes")
assert [len(rows) for rows in scenes.values()] == [3, 1, 1], scenes
numpy.save("label.npy", numpy.asarray(scenes["train"][2]["label"]))
"""
    )
    import numpy as np

    np.testing.assert_array_equal(np.load(tmp_path / "label.npy"), np.asarray(scenes["train"][2]["label"]))


@pytest.fixture
def run_client(hub, tmp_path):
    """Run Python in a process of its own, which has the double for its Hub and cannot import cmdl_hf."""

    def run(code, *arguments, **environment):
        environment = os.environ | {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf_home"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_TOKEN": TOKEN,
            "OMP_NUM_THREADS": "1",
        } | environment  # fmt: skip
        result = subprocess.run(
            [sys.executable, "-c", "import sys\nsys.modules['cmdl_hf'] = None\n" + code, *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
        )
        assert TOKEN not in result.stdout + result.stderr
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


@pytest.mark.usefixtures("client")
def test_a_pushed_model_loads_by_name_and_its_card_runs(hub, folder, tmp_path, run_client, make_batch, make_model):
    model = make_model(use_distributions=False).eval()
    model.save_pretrained(folder / "last")
    pixels, _ = make_batch()
    torch.save(pixels, tmp_path / "pixels.pt")
    Image.new("RGB", (96, 64), (200, 20, 60)).save(tmp_path / "photo.jpg")
    push(folder, "me/toy")
    run_client(
        """
import re, torch
from pathlib import Path
from huggingface_hub import ModelCard
from transformers import AutoModelForSemanticSegmentation

pixels = torch.load("pixels.pt")
with torch.no_grad():
    for subfolder in ("", "last"):
        model = AutoModelForSemanticSegmentation.from_pretrained("me/toy", subfolder=subfolder, trust_remote_code=True)
        torch.save(model.eval()(pixels).logits, f"logits{subfolder}.pt")
model.push_to_hub("me/again")
card = ModelCard.load("me/toy")
blocks = re.findall("```python\\n(.*?)```", card.text, re.DOTALL)
assert len(blocks) == 2, card.text
names = {}
for block in blocks:
    exec(block, names)
assert names["ids"].shape == (64, 96)
"""
    )
    torch.testing.assert_close(torch.load(tmp_path / "logitslast.pt"), model(pixels).logits)
    assert not torch.equal(torch.load(tmp_path / "logits.pt"), torch.load(tmp_path / "logitslast.pt"))
    again = hub.repos["models", "me/again"].files
    assert {"config.json", "model.safetensors", "modeling_cmdl.py"} <= set(again)


@pytest.mark.usefixtures("client")
def test_cmdl_push(hub, folder, capfd):
    main(["push", str(folder), "me/toy", "--private"])
    printed = capfd.readouterr().out.splitlines()
    assert printed[0] == "sending to me/toy:"
    assert printed[-2:] == ["me/toy is private: only those with access see it", f"Pushed to {hub.url}/me/toy"]
    assert hub.repos["models", "me/toy"].private
    _assert_holds(hub.repos["models", "me/toy"], folder)


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("private", [None, True])
def test_who_can_see_the_repository_is_told_before_the_files_go(hub, folder, private):
    told = []
    push(folder, "me/toy", private, tell=lambda text: told.append((text, [*hub.stored_bytes()])))
    text, stored = told[-1]
    assert text.startswith(f"me/toy is {'private' if private else 'public'}: ")
    assert (folder / "config.json").read_bytes() not in stored


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "me/toy"], "nowhere is not a folder"),
        (["empty", "me/toy"], r"empty contains no model: it has no config\.json"),
        (["run", "toy"], "organisation/name, found 'toy'"),
        (["run", "me/to y"], "to y"),
        (["run", "me/toy"], "you are not logged in to the Hub; run `hf auth login`"),
    ],
)
def test_cmdl_push_names_the_mistake(folder, tmp_path, monkeypatch, arguments, message):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    with pytest.raises(SystemExit, match=f"(?s)cmdl: .*{message}"):
        main(["push", *arguments])
    assert not (folder / "README.md").exists()
    assert Path.cwd() == tmp_path


RUN = """
crop_size: [64, 64]
backbone: mobilenetv3_small_050
output_stride: 16
hidden_size: 16
attention_size: 8
total_batch_size: 4
max_steps: 2
eval_steps: 1
num_workers: 0
"""


@pytest.mark.usefixtures("client")
def test_a_run_is_pushed_as_it_goes_and_trouble_does_not_stop_it(hub, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(
        "cmdl_hf.data.loading.load_synthetic", lambda: load_synthetic(4, 2, 1, size=(64, 64), num_labels=4)
    )
    (tmp_path / "recipe.yaml").write_text(RUN)
    folder = tmp_path / "run"
    hub.fail("POST .*/commit/", "reset", 2)
    hub.fail("POST .*/preupload/", 500, 1)
    arguments = [str(tmp_path / "recipe.yaml"), "--output-dir", str(folder), "--push-to-hub", "me/toy", "--private"]
    main(["train", *arguments])
    repo = hub.repos["models", "me/toy"]
    assert repo.messages[-1] == "End of training"
    assert repo.private
    assert repo.files.keys() >= {"README.md", "model.safetensors", "last/model.safetensors", "curves.png"}
    assert {name: folder.joinpath(name).read_bytes() for name in repo.files} == repo.files
    assert not any(name.startswith(("checkpoints", "runs", ".")) for name in repo.files)
    assert f"pushed to {hub.url}/me/toy" in capfd.readouterr().err
    assert "model-index" in repo.files["README.md"].decode()


@pytest.mark.usefixtures("client")
def test_a_run_that_may_not_push_does_not_start(hub, tmp_path, monkeypatch):
    (tmp_path / "recipe.yaml").write_text(RUN)
    hub.fail("POST /api/repos/create", 403)
    with pytest.raises(SystemExit, match="right to write"):
        main(
            ["train", str(tmp_path / "recipe.yaml"), "--output-dir", str(tmp_path / "run"), "--push-to-hub", "me/toy"]
        )
    assert not (tmp_path / "run").exists()
