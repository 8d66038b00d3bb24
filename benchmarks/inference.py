"""Time and peak memory of the protocols on one image, each in a process of its own.

    python benchmarks/inference.py [--size 1024 2048] [--num-labels 19] [--backbone mobilenetv3_small_050] \
        [--threads 1] [--device cuda]

Memory on the CPU is how far the peak of the resident set rises above what the process held before the first pass,
model and image included; on a GPU it is what torch allocated at most. For comparison: one float32 map between all
pairs of grid positions, the (h·w)² map that attention without `scaled_dot_product_attention` builds at stride 8.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation
from cmdl_hf.inference import (
    multi_scale_probabilities,
    segment_in_windows,
    segment_whole_images,
    sliding_window_logits,
    whole_image_logits,
)

PROTOCOLS = {
    "whole": lambda model, image: whole_image_logits(model, image),
    "whole, classes alone": lambda model, image: segment_whole_images(model, image),
    "slide, 512 × 1024": lambda model, image: sliding_window_logits(model, image, (512, 1024)),
    "slide, 512 × 1024, one by one": lambda model, image: sliding_window_logits(
        model, image, (512, 1024), batch_size=1
    ),
    "slide, 512 × 1024, one by one, classes alone": lambda model, image: segment_in_windows(
        model, image, (512, 1024), batch_size=1
    ),
    "scale 1 + flip": lambda model, image: multi_scale_probabilities(model, image, (1.0,)),
    "six scales + flip": lambda model, image: multi_scale_probabilities(model, image),
}


def measure(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Score one image by a protocol, in this process."""
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    backbone = {"backbone": args.backbone, "out_indices": [1, 2, 3, 4], "output_stride": 8}
    config = CMDLConfig(
        backbone_config={"model_type": "timm_backbone", **backbone},
        num_labels=args.num_labels,
        hidden_size=args.hidden_size,
        attention_size=args.hidden_size // 2,
        context_module=args.context_module,
    )
    model = CMDLForSemanticSegmentation(config).eval().to(args.device)
    image = torch.randn(1, 3, *args.size, device=args.device)
    whole_image_logits(model, image[..., :64, :64])  # what is allocated once, such as threads and kernels
    is_cuda = torch.device(args.device).type == "cuda"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB
    if is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
        torch.cuda.synchronize()
    start = time.perf_counter()
    PROTOCOLS[name](model, image)
    if is_cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if is_cuda:
        peak = torch.cuda.max_memory_allocated() / 2**20
    grid = tuple(model(image[..., : args.size[0] // 4, : args.size[1] // 4]).logits.shape[-2:])
    positions = 16 * grid[0] * grid[1]
    return {
        "seconds": seconds,
        "mib": peak - before,
        "scores_mib": args.num_labels * args.size[0] * args.size[1] * 4 / 2**20,
        "map_mib": positions**2 * 4 / 2**20,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--num-labels", type=int, default=19)
    parser.add_argument("--backbone", default="mobilenetv3_small_050")
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--context-module", default="none")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--protocol", choices=PROTOCOLS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.protocol:
        with torch.no_grad():
            print(json.dumps(measure(args.protocol, args)))
        return
    print("| protocol | seconds | peak MiB above model and image |\n|---|---|---|")
    for name in PROTOCOLS:
        command = [sys.executable, __file__, *sys.argv[1:], "--protocol", name]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        print(f"| {name} | {row['seconds']:.1f} | {row['mib']:.0f} |", flush=True)
    print(f"\nscores alone: {row['scores_mib']:.0f} MiB; one (h·w)² map: {row['map_mib']:.0f} MiB")


if __name__ == "__main__":
    main()
