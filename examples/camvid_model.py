"""Make the small model of `model_cards/camvid` from a training: half-precision weights, scores, size and speed.

    cmdl train camvid_small --data-dir CamVid --weights timm --output-dir outputs/camvid_small
    python examples/camvid_model.py outputs/camvid_small --data-dir CamVid

The scores in its card and the figures in `figures.json` are measured from the written files. The folder has no Python
files: cmdl_hf loads it.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from safetensors.torch import load_file, save_file

from cmdl_hf import CMDLForSemanticSegmentation
from cmdl_hf.evaluation import run_evaluation
from cmdl_hf.export import export_model
from cmdl_hf.files import write_text
from cmdl_hf.hub import write_card

KEPT = ("preprocessor_config.json", "recipe.yaml", "run.json")
IMAGE_SIZE = (360, 480)
REPETITIONS = 30


def copy_in_half_precision(run: Path, folder: Path) -> None:
    """Copy a model. Its weights are stored in half precision, and load in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copy(run / name, folder)
    config = json.loads((run / "config.json").read_text()) | {"dtype": "float32"}
    config.pop("auto_map", None)
    write_text(folder / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    weights = load_file(run / "model.safetensors")
    halved = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    overflowing = [name for name, value in halved.items() if value.is_floating_point() and not value.isfinite().all()]
    if overflowing:
        raise ValueError(f"half precision cannot hold the values of {', '.join(overflowing)}")
    save_file(halved, folder / "model.safetensors", metadata={"format": "pt"})


def median_milliseconds(call: Callable[[], object]) -> float:
    """Time a call: the median of `REPETITIONS`, after three to warm up."""
    times = []
    for _ in range(REPETITIONS + 3):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return round(statistics.median(times[3:]), 1)


@torch.inference_mode()
def measure_speed(folder: Path) -> dict[str, float]:
    """Time one image of 480×360 in float32: in PyTorch, in ONNX Runtime and, if there is one, on a GPU."""
    model = CMDLForSemanticSegmentation.from_pretrained(folder).eval()
    pixel_values = torch.randn(1, 3, *IMAGE_SIZE)
    figures = {"pytorch_ms": median_milliseconds(lambda: model(pixel_values))}
    with tempfile.TemporaryDirectory() as scratch:
        path = export_model(folder, Path(scratch) / "model.onnx", image_size=IMAGE_SIZE).path
        session = onnxruntime.InferenceSession(path)
        inputs = {"pixel_values": np.asarray(pixel_values)}
        figures["onnx_ms"] = median_milliseconds(lambda: session.run(["logits"], inputs))
    if torch.cuda.is_available():
        on_gpu, pixels = model.cuda(), pixel_values.cuda()

        def segment() -> None:
            on_gpu(pixels)
            torch.cuda.synchronize()

        figures["gpu_ms"] = median_milliseconds(segment)
    return figures


def main() -> None:
    """Write the folder, score it, measure it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of the training")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of CamVid")
    parser.add_argument("--out", type=Path, default=Path("model_cards/camvid"), help="folder to write")
    options = parser.parse_args()
    copy_in_half_precision(options.run, options.out)
    scores = {}
    with tempfile.TemporaryDirectory() as scratch:
        for split in ("validation", "test"):
            out = Path(scratch) / f"{split}.json"
            evaluation = run_evaluation(
                options.out, "camvid", options.data_dir, split=split, out=out, update_card=True
            )
            scores[f"{split}_mean_iou"] = round(evaluation.scores["mean_iou"], 4)
    model = CMDLForSemanticSegmentation.from_pretrained(options.out)
    figures = {
        "parameters": model.num_parameters(),
        "megabytes": round((options.out / "model.safetensors").stat().st_size / 1e6, 1),
        **scores,
        **measure_speed(options.out),
        "threads": torch.get_num_threads(),
    }
    write_text(options.out / "figures.json", json.dumps(figures, indent=2) + "\n")
    write_card(options.out)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
