"""What leaves the machine: names on a list, regular files alone, printed before they go."""

import ast
import json
import os
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hub_double import TOKEN, connected_hub
from run_folder import SCORES, make_run_folder

from cmdl_hf import models
from cmdl_hf.cli import main
from cmdl_hf.hub import HubPusher, list_files, preview_push, push, push_dataset, sending, uploading

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's, for LFS


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A double of the Hub that this process's client talks to, logged in."""
    with connected_hub(monkeypatch, tmp_path) as hub:
        monkeypatch.setattr(uploading, "RETRY_WAITS", (0.01,))
        yield hub


@pytest.fixture
def folder(make_model, tmp_path):
    return make_run_folder(tmp_path / "run", make_model(), {"validation": SCORES})


def _is_clean(hub, victim):
    return all(victim.read_bytes() not in content for content in hub.stored_bytes())


SENT = {
    "README.md",
    "config.json",
    "curves.png",
    "metrics.jsonl",
    "model.safetensors",
    "predictions.png",
    "preprocessor_config.json",
    "recipe.yaml",
    "run.json",
    "scores.json",
    "modeling_cmdl.py",
    "configuration_cmdl.py",
    "context_registry_cmdl.py",
    "saving_cmdl.py",
}
STRANGERS = (".env", "notes.txt", "secrets.py", "id_rsa", "vocab.txt", "model.bin", "training_args.bin", "dump.sqlite")


def test_only_names_on_the_list_are_sent(hub, folder):
    for name in (*STRANGERS, *(f"last/{name}" for name in STRANGERS), "last/notes.json", "wandb/run.log"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("nobody's business")
    push(folder, "me/toy")
    files = hub.repos["models", "me/toy"].files
    assert set(files) >= SENT | {"last/config.json", "last/model.safetensors", "last/modeling_cmdl.py"}
    assert not [name for name in files if name.removeprefix("last/") in STRANGERS or name.startswith("wandb")]
    assert b"nobody's business" not in b"".join(files.values())
    assert not [name for name in files if name.startswith("last/") and name.endswith((".md", ".yaml", ".jsonl"))]


def test_python_files_go_if_the_model_imports_them(folder, tmp_path):
    (folder / "strip_pooling.py").write_text("from . import helper_of_strip\n")
    (folder / "helper_of_strip.py").write_text("import torch\n")
    with (folder / "context_registry_cmdl.py").open("a") as file:
        file.write("\nfrom .strip_pooling import StripPooling\n")
    (folder / "stranger.py").write_text("PASSWORD = 1\n")
    names = {path.as_posix() for path in list_files(folder)}
    assert {"strip_pooling.py", "helper_of_strip.py"} <= names
    assert "stranger.py" not in names
    (folder / "modeling_cmdl.py").write_text("def f(:\n")
    with pytest.raises(ValueError, match=r"modeling_cmdl\.py is no Python file .*save the model again"):
        list_files(folder)


def test_auto_maps_of_other_repositories_and_other_kinds_name_nothing(folder):
    (folder / "stranger.py").touch()
    for auto_map in ({"AutoModel": "they/repo--stranger.Model"}, ["../stranger.Model", 7, None], "x", None, {"a": {}}):
        config = json.loads((folder / "config.json").read_text()) | {"auto_map": auto_map}
        (folder / "config.json").write_text(json.dumps(config))
        assert "stranger.py" not in {path.name for path in list_files(folder)}


def _swap(path, victim):
    path.unlink(missing_ok=True)
    path.symlink_to(victim)


@pytest.mark.parametrize(
    "name", ["vocab.txt", "scores.json", "model.safetensors", "last/config.json", "modeling_cmdl.py"]
)
def test_links_are_refused_by_name(hub, folder, victim, name):
    _swap(folder / name, victim)
    with pytest.raises(ValueError, match=rf"run/{name} must be a regular file, found a link; put the file itself"):
        push(folder, "me/toy")
    assert not hub.log
    assert not (folder / "README.md").exists()
    with pytest.raises(SystemExit, match=f"cmdl: .*{name} must be a regular file, found a link"):
        main(["push", str(folder), "me/toy"])
    assert _is_clean(hub, victim)


@pytest.mark.parametrize("name", ["last", "."])
def test_linked_folders_are_refused(hub, folder, tmp_path, victim, name):
    (folder / "last").rename(tmp_path / "elsewhere")
    if name == "last":
        (folder / "last").symlink_to(tmp_path / "elsewhere")
        given = folder
    else:
        given = tmp_path / "linked"
        given.symlink_to(folder)
    with pytest.raises(
        ValueError, match=r"(last must be a regular file, found a link|linked is a link to .*name the folder it)"
    ):
        push(given, "me/toy")
    assert not hub.log


def test_pipes_and_sockets_are_refused_and_nobody_waits(hub, folder):
    os.mkfifo(folder / "recipe.yaml.pipe")
    with pytest.raises(ValueError, match="found a pipe"):
        push(folder, "me/toy")
    (folder / "recipe.yaml.pipe").unlink()
    before = os.getcwd()
    os.chdir(folder)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("metrics.sock")
            with pytest.raises(ValueError, match="found a socket"):
                list_files(folder)
    finally:
        os.chdir(before)


def test_a_link_that_comes_between_listing_and_sending_is_not_followed(folder, victim, tmp_path):
    for name in ("scores.json", "model.safetensors"):
        files = list_files(folder)
        kept = (folder / name).read_bytes()
        _swap(folder / name, victim)
        with pytest.raises((OSError, ValueError)):
            sending.take_snapshot(folder, files)
        assert not list(folder.glob(".push-*"))
        (folder / name).unlink()
        (folder / name).write_bytes(kept)


def test_a_run_does_not_push_links_either(hub, folder, victim, caplog):
    pusher = HubPusher(folder, "me/toy")
    scores = (folder / "scores.json").read_bytes()
    _swap(folder / "scores.json", victim)
    pusher.push("Step 1")
    assert "not pushed (Step 1)" in caplog.text
    assert "must be a regular file, found a link" in caplog.text
    with pytest.raises(ValueError, match="found a link"):
        pusher.finish()
    assert _is_clean(hub, victim)
    (folder / "scores.json").unlink()
    (folder / "scores.json").write_bytes(scores)
    pusher.finish()
    assert hub.repos["models", "me/toy"].files["scores.json"] == scores


def test_a_dry_run_prints_and_sends_nothing_and_needs_no_token(hub, folder, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    (folder / "notes.txt").touch()
    before = {path.name for path in folder.iterdir()}
    main(["push", str(folder), "me/toy", "--dry-run"])
    printed = capsys.readouterr().out
    assert "would be sent to me/toy" in printed
    size = (folder / "model.safetensors").stat().st_size
    assert f"{size:,} bytes  model.safetensors" in printed
    assert "README.md, which is written then" in printed
    assert "stays here, as no such name goes to the Hub: metrics.jsonl.tmp, notes.txt" in printed
    assert not hub.log
    assert {path.name for path in folder.iterdir()} == before


def test_what_is_sent_is_told_before(hub, folder):
    told = []
    push(folder, "me/toy", tell=lambda text: told.append((text, list(hub.log))))
    (text, log), _ = told  # then, who can see it
    assert not log
    sent = set(hub.repos["models", "me/toy"].files)
    of_package = {name for name in sent if (Path(models.__file__).parent / Path(name).name).is_file()}
    assert set(re.findall(r"bytes  (?!\d+ Python files)(\S+)", text)) == sent - of_package
    assert sum(map(int, re.findall(r"bytes  (\d+) Python files of cmdl_hf", text))) == len(of_package) > 40
    assert "predictions.png (a picture: it shows images of the validation data)" in text
    assert preview_push(folder) in text


def test_python_files_of_others_are_named(folder):
    (folder / "modeling_cmdl.py").write_text("from .my_context import Mine")
    (folder / "my_context.py").write_text("class Mine: pass")
    assert "bytes  my_context.py" in preview_push(folder)


def test_no_machine_path_and_no_user_is_in_what_is_sent(hub, folder, tmp_path):
    push(folder, "me/toy")
    sent = b"".join(hub.repos["models", "me/toy"].files.values())
    assert str(tmp_path).encode() not in sent
    assert os.path.expanduser("~").encode() + b"/" not in sent
    assert not [name for name in hub.repos["models", "me/toy"].files if ".push-" in name]


def test_of_a_data_set_only_its_files_are_sent(hub, tmp_path, victim):
    folder = tmp_path / "scenes"
    (folder / "data").mkdir(parents=True)
    for name in ("README.md", "id2label.json", "data/train.parquet", "data/notes.txt", ".env", "data/.env", "x.csv"):
        (folder / name).write_text("---\nlicense: mit\n---\n" if name == "README.md" else "{}")
    push_dataset(folder, "me/scenes")
    assert set(hub.repos["datasets", "me/scenes"].files) == {"README.md", "id2label.json", "data/train.parquet"}
    for name in ("data/train.parquet", "label_table.csv"):
        _swap(folder / name, victim)
        with pytest.raises(ValueError, match=f"{name} must be a regular file, found a link"):
            push_dataset(folder, "me/scenes")
        (folder / name).unlink()
    (folder / "data").rename(tmp_path / "elsewhere")
    (folder / "data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="data must be a regular file, found a link"):
        push_dataset(folder, "me/scenes")
    assert _is_clean(hub, victim)


def test_no_token_goes_along_to_another_host(hub, folder, monkeypatch):
    """The Hub's answer may lead anywhere; who is there learns no token."""
    seen = []

    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(dict(self.headers))
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815 (http.server's own name)

        def log_message(self, *_):
            pass

    stranger = HTTPServer(("127.0.0.1", 0), Stranger)
    threading.Thread(target=stranger.serve_forever, daemon=True).start()
    push(folder, "me/toy")

    def redirect(handler):
        handler.send_response(302)
        handler.send_header("Location", f"http://localhost:{stranger.server_port}/README.md")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    serve = hub.server.RequestHandlerClass._serve
    monkeypatch.setattr(
        hub.server.RequestHandlerClass,
        "do_GET",
        lambda handler: redirect(handler) if "README.md" in handler.path else serve(handler),
        raising=False,
    )
    try:
        push(folder, "me/toy")
    except OSError:
        pass  # what the stranger answers is no card
    finally:
        stranger.shutdown()
        stranger.server_close()
    assert seen
    assert not [value for headers in seen for value in headers.values() if TOKEN in value]


def test_several_threads_may_look_at_once(folder, monkeypatch):
    """Python 3.11 now and then raises SystemError where two threads build syntax trees at the same time."""
    parse, building, most = ast.parse, [], []

    def watch(content, *options, **names):
        building.append(content)
        most.append(len(building))
        time.sleep(0.001)
        building.pop()
        return parse(content, *options, **names)

    monkeypatch.setattr(sending.ast, "parse", watch)
    threads = [threading.Thread(target=list_files, args=(folder,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
