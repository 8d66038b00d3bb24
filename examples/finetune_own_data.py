"""Fine-tune a trained CMDL model on your own images and masks; `cmdl train own_small --model` does the same.

    python examples/finetune_own_data.py outputs/demo/model my_data my_data/classes.txt outputs/mine

The arguments are a folder or Hub name of the model, the folder of the data, the file that names the classes, and a new
folder for the run. Other classes than the model's begin anew, and all other layers are kept.
"""

import sys

from cmdl_hf.training import CMDLTrainingArguments, run

if __name__ == "__main__":
    model, data_dir, id2label, output_dir, *max_steps = sys.argv[1:]
    recipe = CMDLTrainingArguments(
        benchmark="own",
        crop_size=(192, 256),
        total_batch_size=4,
        max_steps=int(max_steps[0]) if max_steps else 400,
        optimizer="adamw",
        learning_rate=0.0003,
        freeze_batch_norm="backbone",
    )
    found = run(recipe, output_dir, data_dir, id2label, model=model)
    for split, scores in (found or {}).items():  # none after Ctrl-C; the same command continues
        print(f"{split}: mean IoU {100 * scores['mean_iou']:.1f} %")
