import torch

from cmdl_hf.data import TrainTransform, load_synthetic
from cmdl_hf.training import CMDLTrainingArguments, TrainingLoop
from cmdl_hf.training.memory_start import start_memory_from_data


def test_prototypes_start_among_the_embeddings_of_their_class(make_model):
    scenes = load_synthetic(num_train=6, num_validation=1, num_test=1, size=(96, 96), num_labels=5)["train"]
    model = make_model(num_labels=6)  # of which the scenes lack one
    args = CMDLTrainingArguments(total_batch_size=4, max_steps=5, num_workers=0, learning_rate=0.05)
    loop = TrainingLoop(model, scenes, TrainTransform((96, 96), (1, 1), max_class_share=1.0), args)
    before = model.memory_bank.read()
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    start_memory_from_data(loop)
    prototypes = model.memory_bank.read()
    assert all(torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters())
    torch.testing.assert_close(prototypes.norm(dim=-1), torch.ones(6, 3))
    torch.testing.assert_close(prototypes[5], before[5])

    similarity = []
    for batch in loop.read_ahead(2):
        with torch.no_grad():
            output = model(batch["pixel_values"], output_distributions=True)
        labels = torch.nn.functional.interpolate(batch["labels"][:, None].float(), (3, 3), mode="nearest").flatten()
        for class_id in labels[labels < 5].unique().long():
            own = output.pixel_embeddings[labels == class_id]
            similarity.append((own @ prototypes[class_id].t()).amax(dim=1).mean())
    random = (output.pixel_embeddings @ before[:5].flatten(0, 1).t()).amax(dim=1).mean()
    assert torch.stack(similarity).mean() > 0.8 > random + 0.1
    assert loop.advance(1)["step"] == 1  # the batches that were looked at come again
