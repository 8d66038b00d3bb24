"""Add CMDL to SegFormer and train with transformers' Trainer; with `--lora`, train the backbone by LoRA only.

    python examples/plug_into_transformers.py --output-dir outputs/segformer_with_cmdl

`--model NAME` loads a SegFormer from the Hub. Without it, a small SegFormer starts from scratch. In several processes:
torchrun --nproc_per_node 2 examples/plug_into_transformers.py --output-dir outputs/segformer_with_cmdl
"""

import argparse
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import SegformerConfig, SegformerForSemanticSegmentation, Trainer, TrainingArguments

from cmdl_hf import CMDLAdapter
from cmdl_hf.data import EvalTransform, TrainTransform, load_synthetic
from cmdl_hf.evaluation import evaluate


def main() -> None:
    """Wrap, train, score, save, load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--model", help="folder or Hub name of a SegFormer")
    parser.add_argument("--lora", action="store_true", help="train LoRA adapters instead of the whole backbone")
    parser.add_argument("--max-steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=8, help="images per process")
    parser.add_argument("--image-size", type=int, nargs=2, default=(128, 160), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    args = parser.parse_args()
    scenes = load_synthetic(size=tuple(args.image_size), num_test=20)

    def make_segmenter() -> torch.nn.Module:
        if args.model:
            segmenter = SegformerForSemanticSegmentation.from_pretrained(
                args.model, id2label=scenes.id2label, ignore_mismatched_sizes=True
            )
        else:
            segmenter = SegformerForSemanticSegmentation(
                SegformerConfig(depths=[1, 1, 1, 1], decoder_hidden_size=128, id2label=scenes.id2label)
            )
        if args.lora:  # the decoder has no queries and values; modules_to_save trains it as a whole
            lora = LoraConfig(
                r=8, target_modules=["q_proj", "v_proj", "query", "value"], modules_to_save=["decode_head"]
            )
            segmenter = get_peft_model(segmenter, lora)
        return segmenter

    torch.manual_seed(0)
    model = CMDLAdapter(make_segmenter(), num_labels=scenes.num_labels)
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=str(args.output_dir / "trainer"),
            max_steps=args.max_steps,
            per_device_train_batch_size=args.batch_size,
            learning_rate=1e-3,
            logging_steps=max(1, args.max_steps // 20),
            save_strategy="no",
            report_to="none",
            use_cpu=not torch.accelerator.is_available(),  # without a GPU, several processes need this to connect
            remove_unused_columns=False,  # the transform needs the columns image and label
            torch_compile=args.compile,
            seed=0,
        ),
        train_dataset=scenes["train"].with_transform(TrainTransform(tuple(args.image_size))),
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    scores = evaluate(model, scenes["test"], EvalTransform(), scenes.num_labels)
    if trainer.is_world_process_zero():
        learning = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        print(
            f"{learning / 1e6:.2f} of {sum(p.numel() for p in model.parameters()) / 1e6:.2f} million weights trained"
        )
        print(f"loss: {losses[0]:.3f} at first, {losses[-1]:.3f} at last")
        print(f"test: mean IoU {100 * scores['mean_iou']:.1f} %")
        model.save_pretrained(args.output_dir)
        segmenter = make_segmenter() if args.lora else None  # a plain SegFormer is rebuilt from config.json
        loaded = CMDLAdapter.from_pretrained(args.output_dir, segmenter=segmenter).to(trainer.args.device)
        pixel_values = scenes["test"].with_transform(EvalTransform())[0]["pixel_values"][None].to(trainer.args.device)
        with torch.no_grad():
            assert torch.equal(loaded(pixel_values).logits, model.eval()(pixel_values).logits)


if __name__ == "__main__":
    main()
