"""Add CMDL to torchvision's FCN: train on generated street scenes, score, save, load, and remove CMDL.

    python examples/plug_into_torchvision.py --output-dir outputs/fcn_with_cmdl

In several processes: torchrun --nproc_per_node 2 examples/plug_into_torchvision.py --output-dir ... --batch-size 8
"""

import argparse
from pathlib import Path

import torch
from accelerate import PartialState
from torchvision.models.segmentation import fcn_resnet50

from cmdl_hf import CMDLAdapter
from cmdl_hf.data import EvalTransform, TrainTransform, load_synthetic
from cmdl_hf.evaluation import evaluate
from cmdl_hf.training import CMDLTrainingArguments, train


def main() -> None:
    """Wrap, train, score, save, load, remove."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--max-steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--image-size", type=int, nargs=2, default=(128, 160), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    args = parser.parse_args()
    scenes = load_synthetic(size=tuple(args.image_size), num_test=20)

    def make_segmenter() -> torch.nn.Module:
        return fcn_resnet50(weights=None, weights_backbone=None, num_classes=scenes.num_labels, aux_loss=True)

    torch.manual_seed(0)
    segmenter = make_segmenter()
    model = CMDLAdapter(segmenter, classifier="classifier.4", num_labels=scenes.num_labels)
    recipe = CMDLTrainingArguments(
        max_steps=args.max_steps,
        total_batch_size=args.batch_size,
        learning_rate=0.02,
        logging_steps=1,
        use_compile=args.compile,
        use_channels_last=True,
    )
    rows = train(model, scenes["train"], TrainTransform(tuple(args.image_size)), recipe)
    scores = evaluate(model, scenes["test"], EvalTransform(), scenes.num_labels)
    if not PartialState().is_main_process:
        return
    print(f"loss: {rows[0]['loss']:.3f} at first, {rows[-1]['loss']:.3f} at last")
    print(f"test: mean IoU {100 * scores['mean_iou']:.1f} %")

    model.cpu().eval().save_pretrained(args.output_dir)
    loaded = CMDLAdapter.from_pretrained(args.output_dir, segmenter=make_segmenter())
    pixel_values = scenes["test"].with_transform(EvalTransform())[0]["pixel_values"][None]
    with torch.no_grad():
        with_cmdl = loaded(pixel_values)["out"]  # the same dictionary as torchvision's own model returns
        torch.testing.assert_close(with_cmdl, model(pixel_values)["out"], rtol=1e-3, atol=1e-3)
        without = model.remove()(pixel_values)["out"]
    share = (with_cmdl.argmax(dim=1) != without.argmax(dim=1)).float().mean().item()
    print(f"CMDL and the segmenter's own classifier differ on {100 * share:.1f} % of the pixels")


if __name__ == "__main__":
    main()
