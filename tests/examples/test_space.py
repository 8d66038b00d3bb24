"""The Gradio app of examples/space: its parts without Gradio, and the whole page in headless Chromium.

The page needs Gradio, which wants an older Pillow than this project's environment has. Install
`examples/space/requirements.txt` into an environment of its own and name its interpreter in `CMDL_SPACE_PYTHON`.
"""

import asyncio
import importlib.util
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn.functional import interpolate
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from varied_models import make_varied

from cmdl_hf import inference, make_image_processor, segment

SPACE = Path(__file__).parents[2] / "examples" / "space"


class Browser:
    """A page of headless Chromium, driven over the DevTools protocol."""

    def __init__(self, socket):
        self.socket, self.replies, self.numbers = socket, {}, itertools.count()
        self.errors, self.urls = [], []

    async def listen(self):
        async for message in self.socket:
            event = json.loads(message.data)
            params = event.get("params", {})
            if "id" in event:
                self.replies.pop(event["id"]).set_result(event)
            elif event["method"] == "Network.requestWillBeSent":
                self.urls.append(params["request"]["url"])
            elif event["method"] == "Runtime.exceptionThrown":
                self.errors.append(params["exceptionDetails"])
            elif event["method"] == "Runtime.consoleAPICalled" and params["type"] == "error":
                self.errors.append(params["args"])
            elif event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
                self.errors.append(params["entry"])

    async def call(self, method, **params):
        number = next(self.numbers)
        reply = self.replies[number] = asyncio.get_running_loop().create_future()
        await self.socket.send_json({"id": number, "method": method, "params": params})
        answer = await asyncio.wait_for(reply, 20)
        assert "error" not in answer, answer
        return answer["result"]

    async def evaluate(self, expression):
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    async def wait_for(self, expression, seconds=30):
        for _ in range(int(seconds * 10)):
            if value := await self.evaluate(expression):
                return value
            await asyncio.sleep(0.1)
        text = await self.evaluate("document.body.innerText")
        raise AssertionError(f"not within {seconds} s: {expression}; the page reads: {text}")

    async def upload(self, selector, path):
        document = await self.call("DOM.getDocument")
        node = await self.call("DOM.querySelector", nodeId=document["root"]["nodeId"], selector=selector)
        await self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node["nodeId"])

    async def click(self, selector, across=0.5, down=0.5):
        """Click inside an element, at a place from 0 to 1 in both directions."""
        element = f"document.querySelector({selector!r})"
        await self.wait_for(f"{element} !== null")
        await self.evaluate(f"{element}.scrollIntoView({{block: 'center'}})")
        before, box = None, {}
        while box != before:  # the page may still be growing
            before, box = box, await self.evaluate(f"{element}.getBoundingClientRect().toJSON()")
            await asyncio.sleep(0.2)
        place = {"x": box["x"] + across * box["width"], "y": box["y"] + down * box["height"]}
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)


async def look(url, chromium, profile, visit, width=1280):
    """Open a URL in Chromium and let `visit(browser)` use the page; no error may show up, nothing may leave."""
    command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--remote-debugging-port=0", f"--user-data-dir={profile}", f"--window-size={width},1000"]
    process = subprocess.Popen([*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file = Path(profile) / "DevToolsActivePort"
        while not (port_file.exists() and port_file.read_text().count("\n")):
            await asyncio.sleep(0.1)
        port = port_file.read_text().split()[0]
        async with aiohttp.ClientSession() as session:
            pages = await (await session.get(f"http://127.0.0.1:{port}/json/list")).json()
            address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
            async with session.ws_connect(address, max_msg_size=0) as socket:
                browser = Browser(socket)
                listening = asyncio.create_task(browser.listen())
                for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
                    await browser.call(f"{domain}.enable")
                await browser.call("Page.navigate", url=url)
                await visit(browser)
                listening.cancel()
                return browser
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def space(monkeypatch):
    """The app's modules that need no Gradio."""
    monkeypatch.syspath_prepend(SPACE)
    import models
    import segmenter
    import views

    yield segmenter, views
    models.load.cache_clear()
    for name in ("class_maps", "models", "segmenter", "views"):
        sys.modules.pop(name)


@pytest.fixture
def image():
    """Noise, larger than the feature grid by no whole number."""
    return Image.effect_noise((75, 50), 90).convert("RGB")


def save(model, folder):
    model.save_pretrained(folder)
    make_image_processor().save_pretrained(folder)
    return str(folder)


def make_palette(num_labels):
    return [[40 * i, 255 - 40 * i, 90] for i in range(num_labels)]


class TestParts:
    def test_class_maps_are_made_as_the_package_makes_them(self):
        """The app runs without cmdl_hf, so it has a copy of the file."""
        assert (SPACE / "class_maps.py").read_text() == Path(inference.class_maps.__file__).read_text()

    def test_pixels_agree_with_the_maps(self, space, make_model, image):
        segmenter, _ = space
        model, processor = make_model().eval(), make_image_processor()
        result = segmenter.segment(model, processor, image)
        assert result.segmentation.shape == result.distribution_ids.shape == result.outliers.shape == (50, 75)
        enlarged = interpolate(result.logits, (50, 75), mode="bilinear", align_corners=False)[0].softmax(dim=0)
        for x, y in [(0, 0), (74, 49), (31, 17), (40, 3)]:
            probabilities = segmenter.class_probabilities(result, x, y)
            torch.testing.assert_close(probabilities, enlarged[:, y, x])
            assert int(probabilities.argmax()) == result.segmentation[y, x]
            own = segmenter.distribution_similarity(result, x, y)[result.segmentation[y, x]]
            assert int(own.argmax()) == result.distribution_ids[y, x]
        with torch.no_grad():
            output = model(**processor(image, return_tensors="pt"), output_distributions=True)
        expected = inference.outlier_map(output.similarity, output.logits.shape[-2:], (50, 75))[0]
        torch.testing.assert_close(torch.from_numpy(result.outliers), expected)

    def test_the_app_finds_what_the_package_finds(self, space, make_model, image):
        segmenter, _ = space
        model, processor = make_varied(make_model()), make_image_processor()
        result, expected = segmenter.segment(model, processor, image), segment(model, image, processor=processor)
        assert np.array_equal(result.segmentation, expected.ids)
        assert np.array_equal(result.distribution_ids, expected.distribution_ids)
        np.testing.assert_allclose(result.outliers, expected.outliers, atol=1e-6)
        assert [(result.names[id_], share) for id_, share in segmenter.classes_present(result)] == [
            *expected.shares.items()
        ]

    @pytest.mark.parametrize("kind", ["plain", "segformer"])
    def test_models_without_distributions_say_so(self, space, make_model, image, kind):
        segmenter, views = space
        config = SegformerConfig(num_labels=4, depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=8)
        plain = kind == "plain"
        model = make_model(use_distributions=False) if plain else SegformerForSemanticSegmentation(config)
        result = segmenter.segment(model.eval(), make_image_processor(), image)
        _, distributions, outliers = views.draw(result, (3, 4), [0, 1], 0.5)
        assert distributions is outliers is None
        assert "no class distributions" in views.describe_distributions(result)
        assert "no class distributions" in views.describe_outliers(result)
        assert "pixel-classes" in views.describe_pixel(result, 3, 4)
        assert "pixel-distributions" not in views.describe_pixel(result, 3, 4)

    def test_pictures(self, space, make_model, image):
        segmenter, views = space
        result = segmenter.segment(make_model(palette=make_palette(5)).eval(), make_image_processor(), image)
        present = [class_id for class_id, _ in segmenter.classes_present(result)]
        assert np.array_equal(views.draw_classes(result, [], 1.0), image)
        assert np.array_equal(views.draw_classes(result, present, 0.0), image)
        assert np.array_equal(views.draw_classes(result, present, 1.0), result.palette[result.segmentation])
        shades = views.shades(result.palette[result.segmentation[20, 30]], 3)
        distributions = np.asarray(views.draw_distributions(result))
        assert (distributions[20, 30] == shades[result.distribution_ids[20, 30]]).all()
        outliers = np.asarray(views.draw_outliers(result)).reshape(-1, 3)
        assert (outliers[result.outliers.argmax()] == [252, 255, 164]).all()
        assert (outliers[result.outliers.argmin()] == [0, 0, 4]).all()
        assert {picture.size for picture in views.draw(result, (74, 49), present, 0.5)} == {(975, 650)}

    def test_tables(self, space, make_model, image):
        segmenter, views = space
        model = make_model(id2label={i: f"<i>{i}" for i in range(5)}).eval()
        result = segmenter.segment(model, make_image_processor(), image)
        text = views.describe_pixel(result, 74, 49) + views.describe_distributions(result)
        assert "<i>" not in text
        assert "&lt;i&gt;" in text
        first, second = (part.split("</table>")[0] for part in text.split("<table")[1:3])
        assert [part.count("<td>") for part in (first, second)] == [5 * 3, 3 * 4]
        assert sum(float(number) for number in re.findall(r"<td>([\d.]+)%", first)) == pytest.approx(100, abs=0.3)
        assert sum(float(number) for number in re.findall(r"<td>([\d.]+)%", second)) == pytest.approx(100, abs=0.3)

    def test_images_are_read_upright_and_rgb(self, space, tmp_path):
        segmenter, _ = space
        exif = Image.Exif()
        exif[0x0112] = 6  # lies on its side
        Image.new("L", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
        Image.new("RGBA", (30, 20)).save(tmp_path / "b.png")
        assert segmenter.read_image(str(tmp_path / "a.jpg")).size == (20, 30)
        assert segmenter.read_image(str(tmp_path / "b.png")).mode == "RGB"

    def test_bad_images_are_named(self, space, tmp_path, monkeypatch):
        segmenter, _ = space
        (tmp_path / "words.png").write_text("words")
        (tmp_path / "empty.png").touch()
        Image.effect_noise((90, 90), 50).save(tmp_path / "cut.png")
        (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:4000])
        Image.new("L", (200, 100)).save(tmp_path / "huge.png")
        with pytest.raises(ValueError, match="no image; upload one"):
            segmenter.read_image(None)
        for name in ("words.png", "empty.png", "cut.png"):
            with pytest.raises(ValueError, match=f"must be an image such as PNG or JPEG; '{name}'"):
                segmenter.read_image(str(tmp_path / name))
        for limit, name in ((segmenter, "MAX_PIXELS"), (Image, "MAX_IMAGE_PIXELS")):
            with monkeypatch.context() as patch:
                patch.setattr(limit, name, 9_999)
                with pytest.raises(ValueError, match="shrink or crop"):
                    segmenter.read_image(str(tmp_path / "huge.png"))

    def test_large_images_are_shrunk(self, space, image, monkeypatch):
        segmenter, _ = space
        assert segmenter.shrink(image) is image
        monkeypatch.setattr(segmenter, "MAX_WORK_PIXELS", 1000)
        assert segmenter.shrink(image).size == (38, 25)
        assert segmenter.shrink(Image.new("RGB", (5000, 1))).size == (2236, 1)

    def test_models_that_cannot_be_loaded_are_refused(self, space, make_model, tmp_path, monkeypatch):
        models = sys.modules["models"]
        make_model().save_pretrained(tmp_path)  # without image processor
        monkeypatch.setattr(models, "OWN_MODELS", {"mine": str(tmp_path)})
        with pytest.raises(models.RefusedError, match=r"cannot be loaded now; choose another one"):
            models.load("mine")
        with pytest.raises(models.RefusedError, match=r"must be one of the list; choose one there"):
            models.load("nobody/nothing")

    @pytest.mark.parametrize("on_space", [False, True])
    def test_code_runs_for_the_owners_models_alone(self, space, make_model, tmp_path, monkeypatch, on_space):
        models = sys.modules["models"]
        folder = save(make_model(), tmp_path)
        monkeypatch.setattr(models, "OWN_MODELS", {"mine": folder})
        if on_space:
            monkeypatch.setenv("SPACE_ID", "somebody/space")
        seen = []
        real = models.AutoModelForSemanticSegmentation.from_pretrained
        watched = SimpleNamespace(
            from_pretrained=lambda name, **options: seen.append(options) or real(name, **options)
        )
        monkeypatch.setattr(models, "AutoModelForSemanticSegmentation", watched)
        models.load("mine")
        assert seen[0]["trust_remote_code"] is True
        with pytest.raises(models.RefusedError):
            models.load(folder)
        assert len(seen) == 1

    def test_header_of_the_space(self):
        header = yaml.safe_load((SPACE / "README.md").read_text().split("---\n")[1])
        assert header["sdk"] == "gradio"
        assert f"gradio=={header['sdk_version']}\n" in (SPACE / "requirements.txt").read_text()
        assert (SPACE / header["app_file"]).is_file()
        assert len(header["short_description"]) <= 60  # the Hub refuses longer ones


def find_chromium():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def find_space_python():
    """An interpreter that has Gradio."""
    if named := os.environ.get("CMDL_SPACE_PYTHON"):
        return named
    return sys.executable if importlib.util.find_spec("gradio") else None


@pytest.fixture
def address(make_model, tmp_path):
    """Address of the running app, with a tiny model to choose."""
    python = find_space_python()
    if python is None:
        pytest.skip("no Gradio: name an interpreter with examples/space/requirements.txt in CMDL_SPACE_PYTHON")
    if find_chromium() is None:
        pytest.skip("no Chromium")
    names = ["sky", "road", "car", "<b>tree", "person"]
    model = make_model(id2label=dict(enumerate(names)), palette=make_palette(5))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "CMDL_MODEL": save(model, tmp_path / "model"),
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(tmp_path / "gradio"),
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
    }
    environment.pop("GRADIO_SERVER_NAME", None)
    log = tmp_path / "log.txt"
    with log.open("w") as file:
        server = subprocess.Popen([python, "-u", SPACE / "app.py"], env=environment, stdout=file, stderr=file)
    try:
        for _ in range(600):
            if "Running on local URL" in log.read_text() or server.poll() is not None:
                break
            time.sleep(0.1)
        assert f"http://127.0.0.1:{port}" in log.read_text(), log.read_text()
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(10)


@pytest.mark.slow
def test_page_in_chromium(address, image, tmp_path):
    image.resize((150, 100)).save(tmp_path / "noise.png")
    (tmp_path / "words.png").write_text("words")

    async def visit(browser):
        await browser.wait_for("document.querySelector('#photo input[type=file]') !== null")
        await browser.click("#segment")
        await browser.wait_for("document.body.innerText.includes('There is no image')")
        await browser.upload("#photo input[type=file]", tmp_path / "words.png")
        await browser.wait_for("document.querySelector('#photo img') !== null")
        await browser.click("#segment")
        await browser.wait_for("document.body.innerText.includes('must be an image such as PNG')")
        await browser.click("#photo button[title='Remove Image']")
        await browser.wait_for("document.querySelector('#photo input[type=file]') !== null")

        await browser.upload("#photo input[type=file]", tmp_path / "noise.png")
        await browser.wait_for("document.querySelector('#photo img') !== null")
        await browser.click("#segment")
        await browser.wait_for("document.querySelector('#overlay img')?.naturalWidth === 900")
        all_classes = await browser.evaluate("document.querySelector('#overlay img').src")
        await browser.click("#toggles .wrap input")
        await browser.wait_for(f"document.querySelector('#overlay img').src !== {all_classes!r}")
        assert await browser.evaluate("document.querySelectorAll('#toggles .wrap input:not(:checked)').length") == 1

        await browser.click("#overlay img", 0.25, 0.75)
        await browser.wait_for("document.querySelector('#pixel-distributions') !== null")
        heading = await browser.evaluate("document.querySelector('#pixel h3').innerText")
        x, y = map(int, re.search(r"at x (\d+), y (\d+)", heading).groups())
        assert abs(x - 37) <= 1
        assert abs(y - 75) <= 1
        rows = "[...document.querySelectorAll('{} tr')].slice(1).map(row => row.innerText)"
        classes = await browser.evaluate(rows.format("#pixel-classes"))
        assert len(classes) == 5
        assert classes[0].split("\t")[0].strip() == heading.split(" at x")[0]
        assert any(row.startswith("<b>tree") for row in classes)
        assert len(await browser.evaluate(rows.format("#pixel-distributions"))) == 3

        await browser.click("#tab-outliers-button")
        await browser.wait_for("document.querySelector('#outliers img')?.naturalWidth === 900")
        text = await browser.evaluate("document.querySelector('#outliers-text').innerText")
        assert "The value is not a probability" in text

        assert await browser.evaluate("document.querySelector('#model input').value") == "/".join(
            Path(tmp_path / "model").parts[-2:]
        )

    browser = asyncio.run(asyncio.wait_for(look(address, find_chromium(), tmp_path / "profile", visit), 60))
    assert browser.errors == []
    assert [url for url in browser.urls if not url.startswith((address, "data:", "blob:"))] == []
