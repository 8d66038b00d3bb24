"""Add CMDL to an FPN of segmentation_models_pytorch, and train it with your own training loop.

    python examples/plug_into_smp.py --output-dir outputs/fpn_with_cmdl

In several processes: accelerate launch examples/plug_into_smp.py --output-dir outputs/fpn_with_cmdl
"""

import argparse
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from cmdl_hf import CMDLAdapter
from cmdl_hf.data import EvalTransform, TrainTransform, load_synthetic
from cmdl_hf.evaluation import evaluate


def main() -> None:
    """Wrap, train, score, save, load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--max-steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=8, help="images per process")
    parser.add_argument(
        "--image-size", type=int, nargs=2, default=(128, 160), metavar=("HEIGHT", "WIDTH"), help="multiples of 32"
    )
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    args = parser.parse_args()
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    torch.manual_seed(0)
    scenes = load_synthetic(size=tuple(args.image_size), num_test=20)

    segmenter = smp.FPN("resnet18", encoder_weights=None, classes=scenes.num_labels)
    model = CMDLAdapter(segmenter, num_labels=scenes.num_labels)  # the log names the classifier that the adapter found
    if args.compile:
        model.compile()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
    crops = scenes["train"].with_transform(TrainTransform(tuple(args.image_size)))
    batches = DataLoader(crops, args.batch_size, shuffle=True, drop_last=True)
    wrapped, optimizer, batches = accelerator.prepare(model, optimizer, batches)

    wrapped.train()
    losses: list[torch.Tensor] = []
    while len(losses) < args.max_steps:
        for batch in batches:
            outputs = wrapped(batch["pixel_values"], labels=batch["labels"])
            accelerator.backward(outputs.loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(outputs.loss.detach())
            if len(losses) == args.max_steps:
                break
    first, last = losses[0].item(), losses[-1].item()
    accelerator.print(f"loss: {first:.3f} at first, {last:.3f} at last")

    scores = evaluate(model, scenes["test"], EvalTransform(), scenes.num_labels)
    accelerator.print(f"test: mean IoU {100 * scores['mean_iou']:.1f} %")
    if accelerator.is_main_process:
        model.save_pretrained(args.output_dir)
        loaded = CMDLAdapter.from_pretrained(args.output_dir).to(accelerator.device)  # rebuilds the FPN
        pixel_values = scenes["test"].with_transform(EvalTransform())[0]["pixel_values"][None].to(accelerator.device)
        with torch.no_grad():
            scores = loaded(pixel_values)  # a tensor, as smp's models return
            torch.testing.assert_close(scores, model.eval()(pixel_values), rtol=1e-3, atol=1e-3)
    accelerator.end_training()


if __name__ == "__main__":
    main()
