"""What a visitor may send to the app of examples/space: tried on its parts, and over HTTP where there is Gradio."""

import contextlib
import importlib.util
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_double import HubDouble, Repo
from nasty_names import INVISIBLE, LINES, MARKUP, Page
from PIL import Image
from tiny_models import LIVE_AGGREGATION, TINY_BACKBONE
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation, make_image_processor

SPACE = Path(__file__).parents[2] / "examples" / "space"
MOST_MEMORY = 1.2e9
"""Bytes that the app may need for twenty requests, two copies of the largest image among them."""

SECRET = "hf_secretSECRETsecret"
MODULES = ("class_maps", "models", "segmenter", "views", "fetching")


@pytest.fixture
def space(monkeypatch):
    """The app's modules that need no Gradio."""
    monkeypatch.syspath_prepend(SPACE)
    yield {name: importlib.import_module(name) for name in MODULES}
    for name in MODULES:
        sys.modules.pop(name)


def save_model(folder):
    torch.manual_seed(0)
    names = dict(enumerate(["sky", "road", "<img src=x onerror=hit=1>", "\x1b[31mtree", "person"]))
    sizes = {"hidden_size": 16, "attention_size": 8, "num_distributions": 3, "num_labels": 5, **LIVE_AGGREGATION}
    model = CMDLForSemanticSegmentation(CMDLConfig(backbone_config=dict(TINY_BACKBONE), id2label=names, **sizes))
    model.save_pretrained(folder)
    make_image_processor().save_pretrained(folder)
    return folder


def plant(folder, marker):
    """A folder whose code leaves a file behind when it runs."""
    save_model(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForSemanticSegmentation": "evil.Evil"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').write('ran')\nclass Evil: pass\n")
    return folder


class TestModels:
    @pytest.mark.parametrize("on_space", [False, True])
    @pytest.mark.parametrize("allow_any", [False, True])
    def test_folders_that_are_not_the_owners_run_no_code(self, space, tmp_path, monkeypatch, allow_any, on_space):
        models = space["models"]
        folder, marker = plant(tmp_path / "uploads" / "evil", tmp_path / "marker"), tmp_path / "marker"
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(models, "ALLOW_ANY", allow_any)
        monkeypatch.setattr(models.subprocess, "run", lambda *_, **__: pytest.fail("went to the Hub"))
        if on_space:
            monkeypatch.setenv("SPACE_ID", "me/space")
        for name in (
            str(folder),
            f"{folder}/",
            "./uploads/evil",
            "uploads/../uploads/evil",
            folder.as_uri(),
            "uploads",
        ):
            with pytest.raises(models.RefusedError, match=r"must be (one of the list|a name on the Hub)") as error:
                models.load(name)
            assert str(tmp_path) not in str(error.value)
        assert not marker.exists()

    def test_names_that_look_like_a_folder_s_are_only_looked_for_on_the_hub(self, space, tmp_path, monkeypatch):
        models = space["models"]
        plant(tmp_path / "uploads" / "evil", tmp_path / "marker")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(models, "ALLOW_ANY", True)
        with HubDouble() as hub:
            monkeypatch.setenv("HF_ENDPOINT", hub.url)
            monkeypatch.delenv("HF_HUB_OFFLINE")
            with pytest.raises(models.RefusedError, match="no such model is; correct its name"):
                models.load("uploads/evil")
        assert not (tmp_path / "marker").exists()

    def test_the_owners_list_is_compared_exactly_and_shows_no_place(self, space, tmp_path, monkeypatch):
        models = space["models"]
        folder = save_model(tmp_path / "outputs" / "demo" / "model")
        own = models.find_own_models(f"{folder}, me/street ,{folder},")
        assert own == {"demo/model": str(folder), "me/street": "me/street", "demo/model (2)": str(folder)}
        monkeypatch.setattr(models, "OWN_MODELS", own)
        model, _ = models.load("demo/model")
        assert model.config.model_type == "cmdl"
        for name in (
            str(folder),
            "Demo/model",
            "demo/model/",
            " demo/model",
            "demo/model\0",
            "me/street2",
            "",
            "model",
        ):
            with pytest.raises(models.RefusedError, match="must be one of the list"):
                models.load(name)

    def test_what_the_owner_cannot_load_is_told_in_the_log_alone(self, space, tmp_path, monkeypatch, caplog):
        models = space["models"]
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "config.json").write_text("{")
        monkeypatch.setattr(models, "OWN_MODELS", {"broken": str(tmp_path / "broken")})
        with pytest.raises(models.RefusedError) as error:
            models.load("broken")
        assert str(tmp_path) not in str(error.value)
        assert str(tmp_path) in caplog.text

    def test_an_app_without_models_does_not_start(self, space, monkeypatch):
        models = space["models"]
        monkeypatch.setattr(models, "OWN_MODELS", {})
        with pytest.raises(SystemExit, match="CMDL_MODEL must name the models to serve, and is empty: set it"):
            models.list_models()
        monkeypatch.setattr(models, "ALLOW_ANY", True)
        assert models.list_models() == models.EXAMPLE_MODELS


@pytest.fixture
def hub(monkeypatch, space):
    with HubDouble() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", SECRET)
        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setattr(space["models"], "ALLOW_ANY", True)
        yield hub


def publish(hub, name, folder, sizes=None, **changes):
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    files |= changes.pop("files", {})
    if changes:
        files["config.json"] = json.dumps(json.loads(files["config.json"]) | changes).encode()
    repo = hub.repos["models", name] = Repo(private=False, sizes=sizes or {})
    repo.commit("upload", {path: content for path, content in files.items() if content is not None})


@pytest.fixture
def segformer(tmp_path):
    sizes = {"depths": [1] * 4, "hidden_sizes": [8, 8, 16, 16], "decoder_hidden_size": 8, "num_labels": 4}
    SegformerForSemanticSegmentation(SegformerConfig(**sizes)).save_pretrained(tmp_path / "segformer")
    make_image_processor().save_pretrained(tmp_path / "segformer")
    return tmp_path / "segformer"


class TestOtherModels:
    @pytest.fixture(autouse=True)
    def _temporary(self, tmp_path, monkeypatch):
        (tmp_path / "temporary").mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
        yield
        assert list((tmp_path / "temporary").iterdir()) == []  # nothing is left, whatever came of it

    def test_a_good_one_is_loaded(self, space, hub, segformer):
        publish(hub, "someone/segformer", segformer, files={"evil.py": b"raise SystemExit", "model.bin": b"x"})
        model, _ = space["models"].load("someone/segformer")
        assert model.config.model_type == "segformer"
        assert not hub.requests("evil|model.bin")

    @pytest.mark.parametrize(
        ("sizes", "changes", "message"),
        [
            ({"model.safetensors": 2_000_000_001}, {}, "up to 2 GB, this one has 2.0 GB; choose a smaller"),
            pytest.param({"model.safetensors": None}, {}, "files of known size", marks=pytest.mark.slow),
            ({}, {"files": {"model.safetensors": None, "pytorch_model.bin": b"x"}}, "must be safetensors"),
            pytest.param(
                {},
                {"files": {"preprocessor_config.json": None}},
                "must come with config.json and preprocessor_config",
                marks=pytest.mark.slow,
            ),
            pytest.param(
                {},
                {"files": {f"model-{i}.safetensors": b"x" for i in range(41)}},
                "up to 40 files",
                marks=pytest.mark.slow,
            ),
            ({}, {"auto_map": {"AutoConfig": "evil.Evil"}}, "brings code of its own"),
            ({}, {"backbone": "/etc/evil", "use_pretrained_backbone": False}, "names others in backbone"),
            pytest.param(
                {}, {"backbone_config": {"use_pretrained_backbone": True}}, "loads other files", marks=pytest.mark.slow
            ),
            pytest.param(
                {},
                {"model_type": "no_such_type"},
                "must be a semantic segmenter that transformers has",
                marks=pytest.mark.slow,
            ),
            ({}, {"hidden_sizes": [2**16] * 4}, "must fit the memory of this server|semantic segmenter"),
            pytest.param(
                {}, {"files": {"config.json": b"[" * 100_000}}, "must be a semantic segmenter", marks=pytest.mark.slow
            ),
        ],
    )
    def test_others_are_refused_in_words_for_visitors(self, space, hub, segformer, sizes, changes, message, tmp_path):
        publish(hub, "someone/model", segformer, sizes, **changes)
        with pytest.raises(space["models"].RefusedError, match=message) as error:
            space["models"].load("someone/model")
        assert SECRET not in str(error.value)
        assert str(tmp_path) not in str(error.value)
        if sizes:
            assert not hub.requests("resolve")  # nothing is downloaded

    def test_one_that_takes_too_long_is_ended(self, space, hub, segformer, monkeypatch):
        publish(hub, "someone/segformer", segformer)
        monkeypatch.setattr(space["models"], "MAX_SECONDS", 0.5)
        with pytest.raises(space["models"].RefusedError, match=r"within 0.5 s, this one was not; choose a smaller"):
            space["models"].load("someone/segformer")

    def test_a_hub_out_of_reach_is_no_fault_of_the_model(self, space, hub, monkeypatch):
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(space["models"].RefusedError, match=r"Hub cannot be reached now.*try again later"):
            space["models"].load("someone/model")


class TestImages:
    @pytest.mark.parametrize("format", ["EPS", "PDF", "ICO", "TGA", "SGI", "PCX", "DDS", "JPEG2000"])
    def test_other_formats_are_not_even_looked_at(self, space, tmp_path, format):
        Image.new("RGB", (30, 20)).save(tmp_path / "a", format)
        (tmp_path / "a").rename(tmp_path / "a.jpg")
        with pytest.raises(space["models"].RefusedError, match=r"must be an image such as PNG or JPEG; 'a.jpg'"):
            space["segmenter"].read_image(str(tmp_path / "a.jpg"))

    def test_large_files_are_refused(self, space, tmp_path, monkeypatch):
        Image.effect_noise((90, 90), 50).save(tmp_path / "a.png")
        monkeypatch.setattr(space["segmenter"], "MAX_IMAGE_BYTES", 1000)
        with pytest.raises(space["models"].RefusedError, match=r"MB\. This file has more; shrink it"):
            space["segmenter"].read_image(str(tmp_path / "a.png"))

    @pytest.mark.parametrize("name", [*LINES, *INVISIBLE[:5], "<b>.png"], ids=lambda name: ascii(name)[:20])
    def test_errors_name_files_in_one_line_and_without_their_place(self, space, tmp_path, name):
        path = tmp_path / name.replace("/", "")
        path.write_text("words")
        with pytest.raises(space["models"].RefusedError) as error:
            space["segmenter"].read_image(str(path))
        assert str(tmp_path) not in str(error.value)
        assert str(error.value).isprintable()


def test_names_of_classes_stay_text_in_the_page_s_tables(space):
    segmenter, views = space["segmenter"], space["views"]
    pages = []
    for names in ([*MARKUP, *LINES, *INVISIBLE], [f"name {i}" for i in range(len(MARKUP + LINES + INVISIBLE))]):
        K = len(names)
        model = CMDLForSemanticSegmentation(
            CMDLConfig(
                backbone_config=dict(TINY_BACKBONE), hidden_size=16, attention_size=8, num_labels=K,
                id2label=dict(enumerate(names)),
            )
        )  # fmt: skip
        result = segmenter.segment(model.eval(), make_image_processor(), Image.new("RGB", (64, 64)))
        segmentation = np.arange(64 * 64).reshape(64, 64) % K
        result = segmenter.replace(result, segmentation=segmentation, distribution_ids=segmentation % 2)
        text = views.describe_distributions(result) + views.describe_pixel(result, 3, 4)
        assert not set("\x00\x07\x1b\r\x85\x9b\u2028\u202e\u200b\ud800") & set(text)
        pages.append(Page(text))
    assert pages[0].tags == pages[1].tags


def test_names_from_right_to_left_leave_numbers_in_their_place(space):
    names = dict(enumerate(["שלום", "طريق", "sky"]))
    config = CMDLConfig(backbone_config=dict(TINY_BACKBONE), hidden_size=16, attention_size=8, id2label=names)
    result = space["segmenter"].segment(
        CMDLForSemanticSegmentation(config).eval(), make_image_processor(), Image.new("RGB", (64, 64))
    )
    text = space["views"].describe_pixel(result, 3, 4) + space["views"].describe_distributions(result)
    for name in names.values():
        assert text.count(name) == text.count(f"<bdi>{name}</bdi>")
    assert "<bdi>שלום</bdi>" in text


def find_space_python():
    if named := os.environ.get("CMDL_SPACE_PYTHON"):
        return named
    return sys.executable if importlib.util.find_spec("gradio") else None


class Server:
    """The running app, used as a stranger would who writes requests by hand."""

    def __init__(self, address, folder, log, process):
        self.address, self.folder, self.log, self._process = address, folder, log, process

    def peak_memory(self):
        """Bytes: the most that the app has held in memory so far."""
        status = Path(f"/proc/{self._process.pid}/status")
        if not status.exists():
            pytest.skip("this system does not tell what a process held in memory")
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])

    def request(self, path, data=None, timeout=60, **headers):
        if data is not None and not isinstance(data, bytes):
            data, headers = json.dumps(data).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(
            self.address + path, data, {k.replace("_", "-"): v for k, v in headers.items()}
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")

    def upload(self, content, name="a.png"):
        mark = uuid.uuid4().hex
        body = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        body += content + f"\r\n--{mark}--\r\n".encode()
        return self.request("gradio_api/upload", body, Content_Type=f"multipart/form-data; boundary={mark}")

    def upload_image(self, size=(60, 40), format="PNG", name="a.png"):
        path = self.folder / f"{uuid.uuid4().hex}"
        Image.linear_gradient("L").resize(size).save(path, format)
        status, answer = self.upload(path.read_bytes(), name)
        assert status == 200, answer
        return json.loads(answer)[0]

    def segment(self, model, path, opacity=0.5):
        """What the app answers, as text; an error where the request is not even taken."""
        file = path if path is None or isinstance(path, dict) else {"path": path, "meta": {"_type": "gradio.FileData"}}
        status, answer = self.request("gradio_api/call/segment", {"data": [model, file, opacity]})
        if status != 200:
            return f"event: error\ndata: {answer}"
        return self.request(f"gradio_api/call/segment/{json.loads(answer)['event_id']}", timeout=120)[1]

    def see(self, answer):
        """What an answer shows: its three pictures as bytes, then its texts and the classes with their shares."""
        assert "event: complete" in answer, answer[:500]
        _, *outputs = json.loads(answer.split("event: complete\ndata: ")[1].split("\n")[0])
        pictures = [part for part in outputs if isinstance(part, dict) and "path" in part]
        assert len(pictures) == 3
        seen = [urllib.request.urlopen(picture["url"], timeout=60).read() for picture in pictures]
        return seen + [part for part in outputs if part not in pictures]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    python = find_space_python()
    if python is None:
        pytest.skip("no Gradio: name an interpreter with examples/space/requirements.txt in CMDL_SPACE_PYTHON")
    folder = tmp_path_factory.mktemp("space")
    save_model(folder / "street")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "CMDL_MODEL": str(folder / "street"),
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(folder / "gradio"),
        "HF_HOME": str(folder / "home"),
        "HF_HUB_OFFLINE": "1",
        "HF_TOKEN": SECRET,
    }
    environment.pop("GRADIO_SERVER_NAME", None)
    log = folder / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            [python, "-u", SPACE / "app.py"], env=environment, stdout=file, stderr=file, cwd=folder
        )
    try:
        for _ in range(1200):
            if "Running on local URL" in log.read_text() or process.poll() is not None:
                break
            time.sleep(0.1)
        assert f"http://127.0.0.1:{port}" in log.read_text(), log.read_text()
        yield Server(f"http://127.0.0.1:{port}/", folder, log, process)
    finally:
        process.terminate()
        process.wait(10)


def encode(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def draw_picture(seed):
    """A PNG of coloured blocks, of a size of its own."""
    rng = np.random.default_rng(seed)
    blocks = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return encode(blocks.resize((90 + 10 * seed, 60 + 7 * seed), Image.Resampling.NEAREST))


def ask_at_once(server, paths):
    """Send all requests at the same moment; returns the answers in the order of the paths."""
    start = threading.Barrier(len(paths))

    def ask(path):
        start.wait(60)
        return server.segment("street", path)

    with ThreadPoolExecutor(len(paths)) as pool:
        return list(pool.map(ask, paths))


def assert_refused(server, answer, message=""):
    assert "event: error" in answer, answer[:500]
    assert message in answer, answer[:500]
    for secret in (str(server.folder), str(SPACE), SECRET, "Traceback", "root:x:"):
        assert secret not in answer


@pytest.mark.slow
class TestOverHTTP:
    def test_the_owners_model_segments_an_upload(self, server):
        answer = server.segment("street", server.upload_image())
        assert "event: complete" in answer
        assert SECRET not in answer

    def test_model_names_lead_to_no_folder(self, server):
        photo = server.upload_image()
        plant(server.folder / "evil", server.folder / "marker")
        names = [str(server.folder / "evil"), str(server.folder / "street"), "evil", "./evil", "../space/evil"]
        names += [(server.folder / "evil").as_uri(), "/etc", "nobody/nothing", "", "street/", None, 0, ["street"], {}]
        names += [str(Path(photo).parent), {"path": str(server.folder / "evil")}]
        for name in names:
            assert_refused(server, server.segment(name, photo), "must be one of the list; choose one there")
        assert not (server.folder / "marker").exists()

    def test_uploads_named_as_the_parts_of_a_model_run_no_code(self, server):
        folders = set()
        for file in plant(server.folder / "evil2", server.folder / "marker2").iterdir():
            status, answer = server.upload(file.read_bytes(), file.name)
            assert status == 200
            folders.add(str(Path(json.loads(answer)[0]).parent))
        photo = server.upload_image(name="config.json")
        for name in folders:
            assert_refused(server, server.segment(name, photo))
        assert not (server.folder / "marker2").exists()

    @pytest.mark.parametrize(
        "path",
        ["/etc/passwd", "file:///etc/passwd", "../../../../etc/passwd", "/proc/self/environ", "~/.ssh/id_rsa", ".",
         "data:image/png;base64,AAAA", "street/config.json", 7, ["/etc/passwd"]],
    )  # fmt: skip
    def test_files_of_the_machine_are_not_read(self, server, path):
        assert_refused(server, server.segment("street", path))
        assert_refused(server, server.segment("street", {"path": path}))
        assert_refused(server, server.segment("street", {"path": path, "url": path, "orig_name": "a.png"}))

    def test_addresses_are_not_fetched(self, server):
        asked = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(8)

            def listen():
                with contextlib.suppress(TimeoutError):
                    asked.append(listener.accept()[0].close())

            thread = threading.Thread(target=listen)
            thread.start()
            port = listener.getsockname()[1]
            for address in (
                f"http://127.0.0.1:{port}/a.png",
                f"http://localhost.localdomain:{port}/a.png",
                "http://a.invalid/",
            ):
                file = {"path": address, "url": address, "meta": {"_type": "gradio.FileData"}}
                assert_refused(server, server.segment("street", file), "addresses are not taken")
                assert_refused(server, server.segment("street", None, opacity=file), "addresses are not taken")
            thread.join()
        assert asked == []

    def test_files_of_the_machine_are_not_served(self, server):
        for path in ("/etc/passwd", str(SPACE / "app.py"), str(server.folder / "street" / "config.json"), "app.py",
                     "..%2f..%2fetc%2fpasswd", "file:///etc/passwd", "http://127.0.0.1:1/"):  # fmt: skip
            status, answer = server.request(f"gradio_api/file={path}")
            assert status in (400, 403, 404), (path, status)
            assert "root:x:" not in answer
            assert "import" not in answer

    @pytest.mark.parametrize(
        "name", ["../../evil.png", "/etc/evil.png", "..\\\\evil.png", "a/../../b.png", "%2e%2e%2fa.png"]
    )
    def test_uploads_stay_in_their_folder(self, server, name):
        path = Path(server.upload_image(name=name))
        assert path.resolve().is_relative_to((server.folder / "gradio").resolve())
        answer = server.segment("street", str(path))
        if ".." in path.name:  # which Gradio itself refuses
            assert_refused(server, answer)
        else:
            assert "event: complete" in answer

    def test_large_uploads_are_refused(self, server):
        with contextlib.suppress(urllib.error.URLError):  # it may hang up before all is sent
            status, _ = server.upload(b"x" * 20_100_000)
            assert status == 413
        assert not [path for path in (server.folder / "gradio").rglob("*") if path.stat().st_size > 20_000_000]

    def test_images_of_too_many_pixels_or_of_another_format_are_refused(self, server):
        assert_refused(server, server.segment("street", server.upload_image((10_000, 10_001))), "shrink or crop it")
        for format in ("EPS", "PDF", "ICO", "TGA"):
            path = server.upload_image(format=format, name="a.jpg")
            assert_refused(server, server.segment("street", path), "must be an image such as PNG or JPEG")

    @pytest.mark.parametrize("opacity", [1e308, -5, "0.5", None, [], {"a": 1}, "x" * 10_000])
    def test_odd_values_are_told_without_details(self, server, opacity):
        answer = server.segment("street", server.upload_image(), opacity)
        if "event: complete" not in answer:
            assert_refused(server, answer)

    def test_the_queue_cannot_be_passed_by(self, server):
        status, answer = server.request("gradio_api/run/segment", {"data": ["street", None, 0.5]})
        assert status == 404
        assert "does not accept direct" in answer

    def test_twenty_pictures_at_once_are_each_answered_as_alone(self, server):
        """One of them has a hundred megapixels; that one, and the others beside it, need bounded memory."""
        pictures = [draw_picture(seed) for seed in range(19)]
        pictures.insert(7, encode(Image.linear_gradient("L").resize((10_000, 10_000)).convert("RGB")))
        paths = [json.loads(server.upload(picture)[1])[0] for picture in pictures]
        alone = [server.see(server.segment("street", path)) for path in paths[:7] + paths[8:]]
        assert len({str(seen) for seen in alone}) == 19  # no two are alike, so none can be mistaken for another
        before = server.peak_memory()
        answers = ask_at_once(server, paths)
        seen = [server.see(answer) for answer in answers]
        assert Image.open(io.BytesIO(seen.pop(7)[0])).size == (1448, 1448)  # shrunk, as it says
        assert seen == alone
        assert server.peak_memory() - before < MOST_MEMORY

    def test_more_requests_than_may_wait_are_told_so(self, server):
        answers = ask_at_once(server, [server.upload_image()] * 50)
        done = [answer for answer in answers if "event: complete" in answer]
        refused = [answer for answer in answers if "event: complete" not in answer]
        assert len(done) >= 33
        assert refused
        assert all("queue is full" in answer.lower() for answer in refused)
        assert "event: complete" in server.segment("street", server.upload_image())  # and the app goes on
