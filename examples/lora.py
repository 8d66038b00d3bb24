"""Fine-tune a CMDL model with peft's LoRA, and save an adapter that holds all that training changes.

    python examples/lora.py --model outputs/demo/model --data-dir my_data --id2label my_data/classes.txt \
        --output-dir outputs/lora

LoRA trains two small matrices for each layer in `target_modules`. Training also moves the memory bank and the running
statistics of the batch normalisations, which are buffers. `modules_to_save` stores them with the adapter. Without it,
the loaded model would compare pixels with the distributions of the model that the training started from.

The data is as for `cmdl train own`. The classes must be those of the model.
"""

import argparse
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.utils.data import DataLoader

from cmdl_hf import CMDLForSemanticSegmentation
from cmdl_hf.data import EvalTransform, TrainTransform, load_folder
from cmdl_hf.evaluation import evaluate


def main() -> None:
    """Add low ranks, train, save the adapter, load it, and score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub name to start from")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--id2label", type=Path, required=True, help="file that names the classes")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--num-epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--crop-size", type=int, nargs=2, default=(256, 256), metavar=("HEIGHT", "WIDTH"))
    args = parser.parse_args()

    dataset = load_folder(args.data_dir, args.id2label)
    model = CMDLForSemanticSegmentation.from_pretrained(args.model)
    lora = LoraConfig(
        r=8,
        target_modules=["vote_fusion.0", "fusion.0", "query.0.0", "key.0.0", "value.0"],
        modules_to_save=[*model.list_modules_to_save(), "model.decode_head"],
    )
    model = get_peft_model(model, lora)
    model.print_trainable_parameters()

    images = dataset["train"].with_transform(TrainTransform(tuple(args.crop_size)))
    loader = DataLoader(images, args.batch_size, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for epoch in range(args.num_epochs):
        model.train()
        for batch in loader:
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
    model.save_pretrained(args.output_dir)

    loaded = PeftModel.from_pretrained(CMDLForSemanticSegmentation.from_pretrained(args.model), args.output_dir)
    whole = loaded.merge_and_unload().eval()  # a plain CMDL model, for save_pretrained and the cmdl commands
    scores = evaluate(whole, dataset["validation"], EvalTransform(), dataset.num_labels)
    print(f"validation: mean IoU {100 * scores['mean_iou']:.1f} %")


if __name__ == "__main__":
    main()
