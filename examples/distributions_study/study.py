r"""Train and score the arms of the study of distributions, several runs at a time, with all images on the device.

    python examples/distributions_study/study.py prepare --camvid CamVid --out data/camvid
    python examples/distributions_study/study.py train --data camvid=data/camvid msrc=MSRCv2 \
        --weights mobilenetv2_100.safetensors --groups main --seeds 0 1 2 --jobs 4

`train` needs only torch, timm and transformers. Each finished run is a row of `results.jsonl` and a file of counts in
`counts/`; a run that has a row is not repeated. If a run fails or finds no time, the exit status is 1. On CUDA a
training step is one recorded graph. On one core of a CPU that is fast in bf16 it takes 2.5 seconds.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from diagnosing import VOID, diagnose, mean_iou, score
from torch import Tensor
from transformers import TimmBackboneConfig

from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation
from cmdl_hf.data import IMAGENET_MEAN, IMAGENET_STD
from cmdl_hf.training import bf16_slowdown
from cmdl_hf.training.depthwise import replace_dilated_depthwise, restore_dilated_depthwise

HERE = Path(__file__).parent
NEW: dict[str, Any] = {"contrast_target": "assigned", "intra_class_negative_weight": 0.2}
OLD: dict[str, Any] = {"contrast_target": "all", "voting": "class"}
VOTES: dict[str, Any] = {"voting": "posterior", "voting_temperature": 0.1}
CONTROL: dict[str, Any] = OLD | {
    "prototype_loss_weight": 0.0,
    "contrastive_loss_weight": 0.0,
    "class_margin_loss_weight": 0.0,
    "is_memory_frozen": True,
}
ARMS: dict[str, dict[str, Any]] = {
    "plain": {"use_distributions": False},
    "all": OLD,
    "assigned": OLD | NEW,
    "assigned-votes": OLD | NEW | VOTES,
    "control": CONTROL,
    "all-m1": OLD | {"num_distributions": 1},
    "assigned-b0": OLD | NEW | {"intra_class_negative_weight": 0.0},
    "assigned-b1": OLD | NEW | {"intra_class_negative_weight": 1.0},
    "assigned-b1-votes": OLD | NEW | VOTES | {"intra_class_negative_weight": 1.0},
    "assigned-votes-b0": OLD | NEW | VOTES | {"intra_class_negative_weight": 0.0},
    "assigned-votes-unscaled": OLD | NEW | VOTES | {"layer_scale_init_value": None},
    "assigned-votes-scale0.1": OLD | NEW | VOTES | {"layer_scale_init_value": 0.1},
    "assigned-votes-m3": OLD | NEW | VOTES | {"num_distributions": 3},
    "assigned-unscaled": OLD | NEW | {"layer_scale_init_value": None},
    "all-unscaled": OLD | {"layer_scale_init_value": None},
}
GROUPS = {
    "main": ["plain", "all", "assigned", "assigned-votes"],
    "votes": ["assigned-votes-unscaled", "assigned-votes-scale0.1"],
    "memory": ["all-m1", "control", "assigned-b0", "assigned-b1"],
    "rest": ["assigned-b1-votes", "assigned-votes-b0", "assigned-votes-m3", "assigned-unscaled", "all-unscaled"],
}


class Recipe(NamedTuple):
    """How the networks of one data set are trained."""

    crop_size: tuple[int, int]
    steps: int


RECIPES = {"msrc": Recipe((240, 240), 1500), "camvid": Recipe((180, 240), 920)}
BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 8, 0.001, 0.01, 50


class Split(NamedTuple):
    """Images and masks of a split on one canvas, at the top left, with their sizes."""

    images: Tensor  # (N, 3, H, W) uint8
    labels: Tensor  # (N, H, W) uint8, 255 outside
    sizes: Tensor  # (N, 2) int64


def read_split(folder: Path, split: str, most: int | None = None) -> Split:
    """Read `images/SPLIT/*.jpg` and `masks/SPLIT/*.png`, at most so many."""
    files = sorted((folder / "images" / split).glob("*.jpg"))[:most]
    if not files:
        raise SystemExit(f"{folder / 'images' / split} has no .jpg images; `prepare` makes this layout of CamVid")
    pixels = [np.asarray(PIL.Image.open(file).convert("RGB")) for file in files]
    masks = [np.asarray(PIL.Image.open(folder / "masks" / split / f"{file.stem}.png")) for file in files]
    height, width = (max(mask.shape[axis] for mask in masks) for axis in (0, 1))
    for file, image, mask in zip(files, pixels, masks, strict=True):
        if image.shape[:2] != mask.shape:
            raise SystemExit(f"{file}: the image has {image.shape[:2]} pixels, and its mask {mask.shape}")
    images = torch.zeros(len(files), 3, height, width, dtype=torch.uint8)
    labels = torch.full((len(files), height, width), VOID, dtype=torch.uint8)
    for i, (image, mask) in enumerate(zip(pixels, masks, strict=True)):
        images[i, :, : image.shape[0], : image.shape[1]] = torch.from_numpy(image.copy()).permute(2, 0, 1)
        labels[i, : mask.shape[0], : mask.shape[1]] = torch.from_numpy(mask.copy())
    return Split(images, labels, torch.tensor([mask.shape for mask in masks]))


def prepare(camvid: Path, out: Path) -> None:
    """Write CamVid at 240×180 in the layout that `read_split` reads. Void becomes 255."""
    for split, name in (("train", "train"), ("val", "val"), ("test", "test")):
        for kind in ("images", "masks"):
            (out / kind / split).mkdir(parents=True, exist_ok=True)
        for mask_file in sorted((camvid / f"{name}annot").glob("*.png")):
            (image_file,) = (camvid / name).glob(f"{mask_file.stem}.*")
            image = PIL.Image.open(image_file).convert("RGB").resize((240, 180), PIL.Image.Resampling.BILINEAR)
            image.save(out / "images" / split / f"{mask_file.stem}.jpg", quality=95, subsampling=0)
            mask = np.array(PIL.Image.open(mask_file))
            mask[mask == 11] = VOID
            small = PIL.Image.fromarray(mask).resize((240, 180), PIL.Image.Resampling.NEAREST)
            small.save(out / "masks" / split / f"{mask_file.stem}.png")
    names = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
    (out / "classes.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def draw_transforms(num_images: int, sizes: Tensor, canvas: tuple[int, int], recipe: Recipe, seed: int) -> Any:
    """Draw the images of every step, where they are cut out, and how their colours change.

    Returns ids (steps, B), affine matrices (steps, B, 2, 3) from the crop to the canvas, and colours (steps, B, 3):
    factors of brightness, contrast and saturation.
    """
    generator = torch.Generator().manual_seed(seed)
    total = recipe.steps * BATCH_SIZE
    epochs = math.ceil(total / num_images)
    ids = torch.cat([torch.randperm(num_images, generator=generator) for _ in range(epochs)])[:total]
    scales = 0.5 + 1.5 * torch.rand(total, generator=generator)
    own = sizes[ids].float()  # height and width
    crop = torch.tensor(recipe.crop_size).float()
    covered = crop / scales[:, None]  # pixels of the image that the crop covers
    room = own - covered  # negative where the crop is larger than the image: it then starts at the image's edge
    start = room.clamp_min(0) * torch.rand(total, 2, generator=generator)
    centre = start + covered / 2
    size = torch.tensor(canvas).float()
    flip = torch.where(torch.rand(total, generator=generator) < 0.5, -1.0, 1.0)
    matrices = torch.zeros(total, 2, 3)
    matrices[:, 0, 0] = covered[:, 1] / size[1] * flip
    matrices[:, 1, 1] = covered[:, 0] / size[0]
    matrices[:, 0, 2] = 2 * centre[:, 1] / size[1] - 1
    matrices[:, 1, 2] = 2 * centre[:, 0] / size[0] - 1
    colours = torch.where(
        torch.rand(total, 3, generator=generator) < 0.5, 0.6 + 0.8 * torch.rand(total, 3, generator=generator), 1.0
    )
    shape = (recipe.steps, BATCH_SIZE)
    return ids.view(shape), matrices.view(*shape, 2, 3), colours.view(*shape, 3)


class Batches:
    """Batches made on the device: `draw(step)` gives pixel values and labels, with `step` a tensor on the device."""

    def __init__(self, split: Split, recipe: Recipe, seed: int, device: str) -> None:
        canvas = (split.labels.shape[1], split.labels.shape[2])
        drawn = draw_transforms(len(split.images), split.sizes, canvas, recipe, seed)
        self.ids, self.matrices, self.colours = (tensor.to(device) for tensor in drawn)
        self.images, self.labels = split.images.to(device), split.labels.to(device)
        self.shape = (BATCH_SIZE, 3, *recipe.crop_size)
        self.mean, self.std = (
            torch.tensor(values, device=device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD)
        )

    def draw(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, 3, h, w) float32 and (B, h, w) int64."""
        ids, matrices, colours = (
            values.index_select(0, step)[0] for values in (self.ids, self.matrices, self.colours)
        )
        grid = F.affine_grid(matrices, list(self.shape), align_corners=False)
        pixels = F.grid_sample(self.images[ids].float() / 255, grid, align_corners=False)
        brightness, contrast, saturation = (colours[:, i, None, None, None] for i in range(3))
        pixels = pixels * brightness
        grey = pixels.mean(dim=1, keepdim=True)
        pixels = (grey + (pixels - grey) * saturation).clamp(0, 1)
        middle = pixels.mean(dim=(1, 2, 3), keepdim=True)
        pixels = (middle + (pixels - middle) * contrast).clamp(0, 1)
        classes = self.labels[ids][:, None]
        shifted = torch.where(classes == VOID, 0.0, 1.0 + classes)  # so that 0 is void, as outside
        labels = F.grid_sample(shifted, grid, mode="nearest", align_corners=False)[:, 0].long() - 1
        pixels = ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return pixels, torch.where(labels < 0, VOID, labels)


def make_model(arm: dict[str, Any], num_labels: int, weights: Path, seed: int) -> CMDLForSemanticSegmentation:
    """Make a network on MobileNetV2 at output stride 8 with ImageNet weights."""
    torch.manual_seed(seed)
    backbone = TimmBackboneConfig(backbone="mobilenetv2_100", out_indices=[1, 2, 3, 4], output_stride=8)
    settings = {"num_labels": num_labels, "hidden_size": 256, "attention_size": 128} | arm
    model = CMDLForSemanticSegmentation(
        CMDLConfig(backbone_config=backbone, backbone_kwargs={"pad_type": "same"}, **settings)
    )
    model.load_backbone_weights(weights)
    return model.to(memory_format=torch.channels_last)


class Trainer:
    """Trains one network. On CUDA the step is recorded once and then replayed, without work of the host."""

    def __init__(self, model: CMDLForSemanticSegmentation, batches: Batches, steps: int, device: str) -> None:
        self.model, self.batches, self.device, self.steps = model.train(), batches, device, steps
        scales = [min(1.0, (i + 1) / WARM_UP) * (1 - i / steps) ** 0.9 for i in range(steps)]
        self.rates = LEARNING_RATE * torch.tensor(scales, device=device)
        self.step = torch.zeros(1, dtype=torch.int64, device=device)
        self.losses = torch.zeros(steps, device=device)
        decayed = [parameter for parameter in model.parameters() if parameter.dim() > 1]
        others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
        is_cuda = device == "cuda"
        self.is_bf16 = is_cuda or bf16_slowdown() < 1
        self.rate = torch.tensor(0.0, device=device)
        self.optimizer = torch.optim.AdamW(groups, lr=self.rate, fused=is_cuda, capturable=is_cuda)

    def _step(self) -> None:
        self.rate.copy_(self.rates.index_select(0, self.step)[0])
        pixel_values, labels = self.batches.draw(self.step)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.is_bf16, cache_enabled=False):
            loss = self.model(pixel_values, labels=labels).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.index_copy_(0, self.step, loss.detach().view(1))
        self.step += 1

    def train(self, deadline: float) -> bool:
        """Take all steps; returns whether the deadline allowed it."""
        graph = None
        if self.device == "cuda":
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(5):
                    self._step()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._step()
        for i in range(5 if graph else 0, self.steps):
            if graph is None:
                self._step()
            else:
                graph.replay()
            if i % 100 == 0:
                if graph is not None:
                    torch.cuda.synchronize()
                if time.time() > deadline:
                    return False
        return True


def run(name: str, data: dict[str, dict[str, Split]], deadline: float, args: argparse.Namespace) -> None:
    """Train and score one run, and write its row and its counts."""
    data_name, arm, seed = name.split("/")
    recipe, splits, device, out = RECIPES[data_name], data[data_name], args.device, args.out
    if args.steps:
        recipe = recipe._replace(steps=args.steps)
    num_labels = 1 + int(max(split.labels[split.labels != VOID].max() for split in splits.values()))
    model = make_model(ARMS[arm], num_labels, args.weights, int(seed)).to(device)
    if device == "cpu":
        replace_dilated_depthwise(model)
    start = time.time()
    trainer = Trainer(model, Batches(splits["train"], recipe, 1000 + int(seed), device), recipe.steps, device)
    torch.backends.cudnn.benchmark = True  # a step has one shape, scoring many
    is_done = trainer.train(deadline)
    torch.backends.cudnn.benchmark = False
    restore_dilated_depthwise(model)
    last = trainer.losses[-100:].mean().item()
    if not is_done:
        print(f"{name}: no time left", flush=True)
        return
    seconds = time.time() - start
    print(f"{name}: trained in {seconds:.0f} s, loss {last:.3f}", flush=True)
    model.eval()
    row: dict[str, Any] = {
        "data": data_name,
        "arm": arm,
        "seed": int(seed),
        "device": device,
        "loss": last,
        "seconds": seconds,
    }
    counts = {}
    for split in ("val", "test"):
        counts[split] = score(model, splits[split], device)
        row[split] = mean_iou(counts[split])
    if model.config.use_distributions:
        row |= diagnose(model, splits, device)
    (out / "counts").mkdir(exist_ok=True)
    np.savez_compressed(out / "counts" / f"{name.replace('/', '-')}.npz", **counts)
    with (out / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()}) + "\n")
    print(
        f"{name}: {row['val']:.3f} {row['test']:.3f}, {seconds:.0f} s, in all {time.time() - start:.0f} s", flush=True
    )


def work(queue: Any, data: dict[str, Path], deadline: float, args: argparse.Namespace) -> None:
    """Take runs from the queue until it is empty."""
    torch.set_num_threads(1)
    splits = {
        name: {split: read_split(folder, split, args.images) for split in ("train", "val", "test")}
        for name, folder in data.items()
    }
    while (name := queue.get()) is not None:
        if time.time() > deadline:
            continue
        try:
            run(name, splits, deadline, args)
        except Exception as error:
            print(f"{name} failed: {type(error).__name__}: {str(error)[:1500]}", flush=True)


def find_done(out: Path) -> set[str]:
    """Return the names of the runs that have a row."""
    rows = out / "results.jsonl"
    if not rows.exists():
        return set()
    return {f"{r['data']}/{r['arm']}/{r['seed']}" for r in map(json.loads, rows.read_text().splitlines())}


def train(args: argparse.Namespace) -> None:
    """Train all runs that have no row."""
    data = {name: Path(folder) for name, folder in (pair.split("=", 1) for pair in args.data)}
    args.out.mkdir(parents=True, exist_ok=True)
    asked = [
        f"{name}/{arm}/{seed}"
        for group in args.groups
        for seed in args.seeds
        for arm in GROUPS.get(group, [group])
        for name in data
    ]
    done = find_done(args.out)
    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    for name in asked:
        if name not in done:
            queue.put(name)
    for _ in range(args.jobs):
        queue.put(None)
    deadline = time.time() + 60 * args.minutes
    args.call = None  # a function that another process would have to find
    workers = [context.Process(target=work, args=(queue, data, deadline, args)) for _ in range(args.jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    done = find_done(args.out)
    if missing := [name for name in asked if name not in done]:
        raise SystemExit(f"without a row: {', '.join(missing)}")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    preparing = commands.add_parser("prepare", help="write CamVid at 240×180")
    preparing.add_argument("--camvid", type=Path, required=True)
    preparing.add_argument("--out", type=Path, required=True)
    preparing.set_defaults(call=lambda args: prepare(args.camvid, args.out))
    training = commands.add_parser("train", help="train and score runs")
    training.add_argument("--data", nargs="+", required=True, metavar="NAME=FOLDER")
    training.add_argument("--weights", type=Path, required=True)
    training.add_argument("--groups", nargs="+", default=list(GROUPS), help="groups, or single arms")
    training.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    training.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    training.add_argument("--jobs", type=int, default=1, help="runs at a time")
    training.add_argument("--minutes", type=float, default=1e6, help="start no step after this time")
    training.add_argument("--steps", type=int, help="steps of each run, for a trial")
    training.add_argument("--images", type=int, help="images of each split, for a trial")
    training.add_argument("--out", type=Path, default=HERE)
    training.set_defaults(call=train)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
