"""Segmenters that are not ours, as small as their libraries allow, for the tests of the adapter."""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import nn

NUM_LABELS = 5


class SmallSegmenter(nn.Module):
    """Nobody's: two convolutions and a classifier, on a grid of 1/stride of the image; enlarges its scores."""

    def __init__(self, stride=8, hidden_size=12, has_auxiliary=False):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, hidden_size, 3, stride=stride, padding=1),
            nn.BatchNorm2d(hidden_size),
            nn.ReLU(),
            nn.Conv2d(hidden_size, hidden_size, 3, padding=1),
            nn.ReLU(),
        )
        self.classifier = nn.Conv2d(hidden_size, NUM_LABELS, 1)
        self.aux_classifier = nn.Conv2d(hidden_size, NUM_LABELS, 1) if has_auxiliary else None

    def forward(self, images):
        features = self.features(images)
        scores = enlarge(self.classifier(features), images)
        if self.aux_classifier is None:
            return scores
        return {"out": scores, "aux": enlarge(self.aux_classifier(features), images)}


def enlarge(scores, images):
    return F.interpolate(scores, size=images.shape[-2:], mode="bilinear", align_corners=False)


def torchvision_model(name, **settings):
    from torchvision.models import segmentation

    return getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=NUM_LABELS, **settings)


def small_fcn(num_classes=NUM_LABELS, **_):
    """torchvision's FCN with an auxiliary classifier, on a ResNet of four blocks; called as `fcn_resnet50` is."""
    from torchvision.models.resnet import BasicBlock, ResNet
    from torchvision.models.segmentation.fcn import FCN, FCNHead

    resnet = ResNet(BasicBlock, [1, 1, 1, 1])
    layers = {name: layer for name, layer in resnet.named_children() if name not in ("avgpool", "fc")}

    class Backbone(nn.ModuleDict):
        def forward(self, images):
            outputs = {}
            for name, layer in self.items():
                images = layer(images)
                outputs[name] = images
            return {"aux": outputs["layer3"], "out": outputs["layer4"]}

    return FCN(Backbone(layers), FCNHead(512, num_classes), FCNHead(256, num_classes))


def smp_model(name, **settings):
    import segmentation_models_pytorch as smp

    return getattr(smp, name)("resnet18", encoder_weights=None, classes=NUM_LABELS, **settings)


def segformer(**settings):
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    sizes = {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1], "decoder_hidden_size": 32}
    return SegformerForSemanticSegmentation(SegformerConfig(num_labels=NUM_LABELS, **(sizes | settings)))


def upernet():
    from transformers import ResNetConfig, UperNetConfig, UperNetForSemanticSegmentation

    backbone = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 32, 64],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    sizes = {"hidden_size": 32, "auxiliary_channels": 16, "auxiliary_in_channels": 32, "pool_scales": [1, 2]}
    return UperNetForSemanticSegmentation(UperNetConfig(num_labels=NUM_LABELS, backbone_config=backbone, **sizes))


_VIT = {
    "num_labels": NUM_LABELS,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 64,
    "patch_size": 16,
}


def dpt():
    from transformers import DPTConfig, DPTForSemanticSegmentation

    sizes = {"neck_hidden_sizes": [8, 16, 32, 32], "fusion_hidden_size": 16, "backbone_out_indices": [0, 1, 2, 3]}
    return DPTForSemanticSegmentation(DPTConfig(**_VIT, **sizes))


def mobilevit():
    from transformers import MobileViTConfig, MobileViTForSemanticSegmentation

    sizes = {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 64], "aspp_out_channels": 32}
    return MobileViTForSemanticSegmentation(
        MobileViTConfig(num_labels=NUM_LABELS, image_size=64, num_attention_heads=2, **sizes)
    )


def beit():
    from transformers import BeitConfig, BeitForSemanticSegmentation

    return BeitForSemanticSegmentation(BeitConfig(**_VIT, out_indices=[1, 2, 3, 4]))


class Case(NamedTuple):
    """A segmenter to put CMDL on: how to make it, and what is known of it."""

    make: Callable[[], nn.Module]
    classifier: str
    has_auxiliary: bool


ZOO = {
    "torchvision FCN": Case(lambda: torchvision_model("fcn_resnet50", aux_loss=True), "classifier.4", True),
    "torchvision DeepLabV3": Case(
        lambda: torchvision_model("deeplabv3_mobilenet_v3_large", aux_loss=True), "classifier.4", True
    ),
    "smp FPN": Case(lambda: smp_model("FPN"), "segmentation_head.0", False),
    "smp UNet++": Case(lambda: smp_model("UnetPlusPlus"), "segmentation_head.0", False),
    "smp UPerNet": Case(lambda: smp_model("UPerNet"), "segmentation_head.0", False),
    "smp SegFormer": Case(lambda: smp_model("Segformer"), "segmentation_head.0", False),
    "transformers SegFormer": Case(segformer, "decode_head.classifier", False),
    "transformers UPerNet": Case(upernet, "decode_head.classifier", True),
    "transformers DPT": Case(dpt, "head.head.4", True),
    "transformers MobileViT": Case(mobilevit, "segmentation_head.classifier.convolution", False),
    "transformers BEiT": Case(beit, "decode_head.classifier", True),
}
