"""Tiny models that find several classes in an image: an untrained one finds a single class everywhere."""

import torch


def make_varied(model):
    """Balance the scores of a tiny CMDL model, so that each class wins somewhere; returns it in eval mode."""
    model.eval()
    noise = torch.nn.functional.interpolate(torch.randn(8, 3, 6, 6), (96, 96), mode="bicubic")
    with torch.no_grad():
        logits = model(noise).logits
        model.decode_head[-1].weight /= logits.std(dim=(0, 2, 3)).view(-1, 1, 1, 1) / 2
        model.decode_head[-1].bias -= model(noise).logits.mean(dim=(0, 2, 3))
    return model
