"""Fine-tune a CMDL model on your own images and masks, score it, and save it for `from_pretrained`.

    python examples/finetune_own_data.py --model outputs/demo/model --data-dir my_data --id2label my_data/classes.txt \
        --output-dir outputs/mine

`my_data` contains `images/` and `masks/`, each with the folders `train`, `val` and `test`. Masks contain the class ids
0..K-1, and 255 for ignored pixels. `classes.txt` names one class per line. `--model` is a folder or a Hub name. It
gives the weights of the backbone and of all other layers that do not depend on the classes.
"""

import argparse
from pathlib import Path

from cmdl_hf import CMDLForSemanticSegmentation, make_image_processor
from cmdl_hf.data import EvalTransform, TrainTransform, load_folder
from cmdl_hf.evaluation import evaluate
from cmdl_hf.training import CMDLTrainingArguments, train


def main() -> None:
    """Load, train, score, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub name to start from")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--id2label", type=Path, required=True, help="file that names the classes")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--max-steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--crop-size", type=int, nargs=2, default=(256, 256), metavar=("HEIGHT", "WIDTH"))
    args = parser.parse_args()

    dataset = load_folder(args.data_dir, args.id2label)
    model = CMDLForSemanticSegmentation.from_pretrained(
        args.model,
        id2label=dataset.id2label,
        label2id={name: index for index, name in dataset.id2label.items()},
        palette=dataset.palette,
        ignore_mismatched_sizes=True,  # for another number of classes, memory bank and classifiers start anew
    )
    recipe = CMDLTrainingArguments(
        max_steps=args.max_steps, total_batch_size=args.batch_size, head_learning_rate_factor=2.0, num_workers=0
    )
    train(model, dataset["train"], TrainTransform(tuple(args.crop_size)), recipe)

    model.save_pretrained(args.output_dir)
    make_image_processor().save_pretrained(args.output_dir)
    print(f"model: {args.output_dir}")
    for split in [name for name in dataset if name != "train"]:
        scores = evaluate(model, dataset[split], EvalTransform(), dataset.num_labels, description=f"Scoring {split}")
        print(f"{split}: mean IoU {100 * scores['mean_iou']:.1f} %")
        for index, iou in enumerate(scores["per_class_iou"]):
            print(f"  {dataset.id2label[index]:<20} {100 * iou:5.1f}")


if __name__ == "__main__":
    main()
