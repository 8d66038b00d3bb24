"""Training transforms against the straightforward order: resize the whole, then crop, then everything else.

    python benchmarks/transforms.py [--repetitions 15] [--samples 16]

Both draw the same scales, crops, flips and distortions and are checked to give the same labels and, within the
rounding to 8 bits, the same pixels. The straightforward order uses torchvision's fast uint8 kernels and goes to HSV
and back. One thread, like a worker of a `DataLoader`; both run in turn in one process, on some samples each time.
"""

import argparse
import io
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from measuring import ratios, summarize, time_in_turn
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F
from torchvision.transforms.v2.functional._color import _hsv_to_rgb, _rgb_to_hsv

from cmdl_hf.data import IMAGENET_STD, TrainTransform
from cmdl_hf.data.photometric import PhotometricDistortion
from cmdl_hf.data.scale_crop import RandomScaleCrop

SETTINGS = {"2048×1024, crop 512×1024": (1024, 2048, (512, 1024)), "480×360, crop 360×360": (360, 480, (360, 360))}


class ResizeThenCrop(RandomScaleCrop):
    """Resize image and labels whole, then look for a crop."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw what `RandomScaleCrop` draws, from labels resized whole."""
        mask = flat_inputs[1]
        scale = torch.empty(()).uniform_(*self.scale_range).item()
        size = round(mask.shape[0] * scale), round(mask.shape[1] * scale)
        whole = F.resize(mask[None], size, interpolation=InterpolationMode.NEAREST_EXACT)[0]
        box = self._draw_box(size)
        for _ in range(0 if size == box[2:] else self.num_tries):
            if self._is_mixed(F.crop(whole, *box)):
                break
            box = self._draw_box(size)
        return {"size": size, "box": box, "mask": F.crop(whole, *box)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize the image and crop it."""
        if isinstance(inpt, tv_tensors.Mask):
            return tv_tensors.wrap(params["mask"], like=inpt)
        return F.crop(F.resize(F.to_image(inpt), params["size"]), *params["box"])


class DistortionThroughHSV(PhotometricDistortion):
    """Change saturation and hue in HSV, each going there and back, as the original does."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Distort an image step by step."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        image = F.to_dtype(inpt.as_subclass(Tensor).contiguous(), torch.float32, scale=True)
        if params["brightness"]:
            image = (image + params["brightness"]).clamp(0, 1)
        if params["is_contrast_first"] and params["contrast"] != 1:
            image = (image * params["contrast"]).clamp(0, 1)
        if params["saturation"] != 1:
            hue, saturation, value = _rgb_to_hsv(image)
            image = _hsv_to_rgb(torch.stack((hue, (saturation * params["saturation"]).clamp(0, 1), value)))
        if params["hue"]:
            image = F.adjust_hue(image, params["hue"])
        if not params["is_contrast_first"] and params["contrast"] != 1:
            image = (image * params["contrast"]).clamp(0, 1)
        return tv_tensors.wrap(image, like=inpt)


def straightforward(crop_size: tuple[int, int]) -> TrainTransform:
    """Make the same transform in the straightforward order."""
    transform = TrainTransform(crop_size)
    transform.vary = v2.Compose([ResizeThenCrop(crop_size), v2.RandomHorizontalFlip(), DistortionThroughHSV()])
    return transform


def make_files(height: int, width: int) -> tuple[bytes, bytes]:
    """Draw a blurred scene with some noise and labels in patches, as PNG files."""
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 12, (9, 13), dtype=np.uint8)
    patches[6:] = rng.choice([0, 0, 0, 1, 255], (3, 13))  # a street along the bottom
    scene = Image.fromarray(rng.integers(0, 256, (18, 26, 3), dtype=np.uint8)).resize((width, height))
    noisy = np.asarray(scene) + rng.normal(0, 4, (height, width, 3))
    files = []
    for image in (Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), Image.fromarray(patches)):
        file = io.BytesIO()
        image.resize((width, height), Image.Resampling.NEAREST).save(file, "PNG")
        files.append(file.getvalue())
    return files[0], files[1]


def decode(files: tuple[bytes, bytes]) -> dict[str, list[Any]]:
    """Decode one sample."""
    image, label = (Image.open(io.BytesIO(file)) for file in files)
    image.load()
    label.load()
    return {"image": [image], "label": [label]}


def check_equal(ours: TrainTransform, theirs: TrainTransform, samples: dict[str, list[Any]]) -> None:
    """Check that both transforms do the same where they draw the same."""
    for seed in range(12):
        outputs = []
        for transform in (ours, theirs):
            torch.manual_seed(seed)
            outputs.append(transform(samples))
        is_other = outputs[0]["labels"][0] != outputs[1]["labels"][0]
        assert is_other.float().mean() < 1e-3, "only a pixel on the border of two may go to the other"
        difference = (outputs[0]["pixel_values"][0] - outputs[1]["pixel_values"][0]).abs() * IMAGENET_STD[0] * 255
        assert difference.quantile(0.99) < 4, difference.quantile(0.99)


def repeat(step: Callable[[], Any], num_samples: int) -> Callable[[], None]:
    """Make a step of several samples, which draws anew each time it is taken."""
    seeds = itertools.count()

    def repeated() -> None:
        torch.manual_seed(next(seeds))
        for _ in range(num_samples):
            step()

    return repeated


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--samples", type=int, default=16, help="samples of a turn")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| images | decoding | straightforward, images/s | ours, images/s | ratio |\n|---|---|---|---|---|")
    for name, (height, width, crop_size) in SETTINGS.items():
        files = make_files(height, width)
        samples = decode(files)
        ours, theirs = TrainTransform(crop_size), straightforward(crop_size)
        check_equal(ours, theirs, samples)
        for decoding, load in (
            ("without", lambda samples=samples: samples),
            ("PNG", lambda files=files: decode(files)),
        ):
            steps = {
                "theirs": repeat(lambda load=load, theirs=theirs: theirs(load()), args.samples),
                "ours": repeat(lambda load=load, ours=ours: ours(load()), args.samples),
            }
            times = time_in_turn(steps, args.repetitions, "cpu")
            speeds = [summarize([1e3 * args.samples / t for t in values]) for values in times.values()]
            ratio = summarize(ratios(times, "theirs", "ours"))
            print(f"| {name} | {decoding} | {speeds[0]} | {speeds[1]} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
