"""Training step and inference of CMDL-FCN against FCNs of others, ResNet-50 at output stride 8, 512×512, 150 classes.

    python benchmarks/network.py [--device cuda] [--dtype bf16] [--compile] [--batch-size 2] [--repetitions 3]

A training step is forward with all losses and backward, without the optimiser; inference ends with logits at image
size. All networks run in turn in one process, on the same random images. Multiply-adds are those torch counts in the
very step. `mmseg` is an FCN of mmsegmentation's design (two 3×3 convolutions and a third on the concatenation with
the input, an auxiliary head of 256 channels, losses at image size by interpolation) on the backbone that ours has;
`plain` is ours without distributions. Rates are fractions of the machine's matrix product in the same run.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable

import timm
import torch
import torch.nn.functional as F
from measuring import (
    add_device_arguments,
    is_cuda,
    matmul_rate,
    peak_memory,
    precision,
    ratios,
    set_up,
    summarize,
    time_in_turn,
)
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.segmentation import fcn_resnet50

from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation

IGNORE_INDEX = 255


class OurNetwork(nn.Module):
    """CMDL-FCN, or the same without distributions."""

    def __init__(self, args: argparse.Namespace, use_distributions: bool) -> None:
        super().__init__()
        backbone = {"model_type": "timm_backbone", "backbone": args.backbone, "out_indices": [3, 4]}
        config = CMDLConfig(
            num_labels=args.num_labels,
            use_distributions=use_distributions,
            backbone_config=backbone | {"output_stride": 8},
        )
        self.model = CMDLForSemanticSegmentation(config)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Tensor:
        """Loss with labels, logits at image size without."""
        output = self.model(pixel_values, labels=labels)
        return _enlarge(output.logits, pixel_values) if labels is None else output.loss


class OtherNetwork(nn.Module):
    """A network that returns logits and auxiliary logits of any size, with cross-entropy at image size.

    Args:
        network (`nn.Module`): What is compared.
        split (`Callable`): Makes of its output the logits and, in training, the auxiliary logits or `None`.
    """

    def __init__(self, network: nn.Module, split: Callable[[object], tuple[Tensor, Tensor | None]]) -> None:
        super().__init__()
        self.network = network
        self.split = split

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Tensor:
        """Loss with labels, logits at image size without."""
        logits, auxiliary_logits = self.split(self.network(pixel_values))
        if labels is None:
            return _enlarge(logits, pixel_values)
        loss = F.cross_entropy(_enlarge(logits, pixel_values), labels, ignore_index=IGNORE_INDEX)
        if auxiliary_logits is not None:
            auxiliary = F.cross_entropy(_enlarge(auxiliary_logits, pixel_values), labels, ignore_index=IGNORE_INDEX)
            loss = loss + 0.4 * auxiliary
        return loss


class ReferenceFCN(nn.Module):
    """FCN as mmsegmentation configures it, on timm's dilated backbone."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        self.backbone = timm.create_model(args.backbone, features_only=True, out_indices=(3, 4), output_stride=8)
        middle, last = self.backbone.feature_info.channels()
        self.convs = nn.Sequential(_conv_norm_relu(last, 512), _conv_norm_relu(512, 512))
        self.concatenation = _conv_norm_relu(last + 512, 512)
        self.classifier = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(512, args.num_labels, 1))
        self.auxiliary_head = nn.Sequential(
            _conv_norm_relu(middle, 256), nn.Dropout2d(0.1), nn.Conv2d(256, args.num_labels, 1)
        )

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits and, in training, auxiliary logits at stride 8."""
        middle, last = self.backbone(pixel_values)
        logits = self.classifier(self.concatenation(torch.cat([last, self.convs(last)], dim=1)))
        return logits, self.auxiliary_head(middle) if self.training else None


def _conv_norm_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def _enlarge(logits: Tensor, pixel_values: Tensor) -> Tensor:
    if logits.shape[-2:] == pixel_values.shape[-2:]:
        return logits.float()
    return F.interpolate(logits.float(), size=pixel_values.shape[-2:], mode="bilinear", align_corners=False)


def make_networks(args: argparse.Namespace) -> dict[str, nn.Module]:
    """All networks, with random weights."""
    networks: dict[str, nn.Module] = {
        "CMDL-FCN": OurNetwork(args, True),
        "plain": OurNetwork(args, False),
        "mmseg": OtherNetwork(ReferenceFCN(args), lambda output: output),
        "torchvision": OtherNetwork(
            fcn_resnet50(weights=None, weights_backbone=None, num_classes=args.num_labels, aux_loss=True),
            lambda output: (output["out"], output.get("aux")),
        ),
    }
    try:
        import segmentation_models_pytorch as smp
    except ImportError:
        print("smp is left out: segmentation-models-pytorch is not installed (pip install cmdl_hf[dev])")
    else:
        deeplab = smp.DeepLabV3("resnet50", encoder_weights=None, encoder_output_stride=8, classes=args.num_labels)
        networks["smp"] = OtherNetwork(deeplab, lambda output: (output, None))
    for network in networks.values():
        network.to(args.device)
        if args.channels_last:
            network.to(memory_format=torch.channels_last)
    return {name: network for name, network in networks.items() if not args.networks or name in args.networks}


def make_batch(args: argparse.Namespace, batch_size: int) -> tuple[Tensor, Tensor]:
    """Random images, and labels in patches with a void border."""
    torch.manual_seed(0)
    pixel_values = torch.randn(batch_size, 3, args.size, args.size)
    patches = torch.randint(0, args.num_labels, (batch_size, 1, args.size // 16, args.size // 16))
    labels = F.interpolate(patches.double(), args.size).long()[:, 0]
    labels[:, :8] = IGNORE_INDEX
    if args.channels_last:
        pixel_values = pixel_values.to(memory_format=torch.channels_last)
    return pixel_values.to(args.device), labels.to(args.device)


def make_step(
    network: nn.Module, batch: tuple[Tensor, Tensor], is_training: bool, args: argparse.Namespace
) -> Callable:
    """One training step or one inference."""
    call = torch.compile(network) if args.compile else network

    def train() -> None:
        network.train()
        network.zero_grad(set_to_none=True)
        with precision(args):
            loss = call(*batch)
        loss.backward()

    def infer() -> None:
        network.eval()
        with torch.inference_mode(), precision(args):
            call(batch[0])

    return train if is_training else infer


def count(step: Callable[[], None]) -> float:
    """Count multiply-adds of a step, in units of 10⁹."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 2e9


def compare(networks: dict[str, nn.Module], is_training: bool, args: argparse.Namespace) -> dict[str, list[float]]:
    """Print the table of training or inference; returns ms by network."""
    batch = make_batch(args, args.batch_size if is_training else 1)
    plain_args = argparse.Namespace(**vars(args) | {"compile": False})
    steps = {name: make_step(network, batch, is_training, args) for name, network in networks.items()}
    work = {name: count(make_step(network, batch, is_training, plain_args)) for name, network in networks.items()}
    rates = [matmul_rate(args)]
    times = time_in_turn(steps, args.repetitions, args.device)
    rates.append(matmul_rate(args))
    print(
        f"\n{'Training step' if is_training else 'Inference'}, {len(batch[0])} images; "
        f"matrix product {rates[0]:.0f} and {rates[1]:.0f} GFLOP/s\n"
    )
    print("| network | multiply-adds, 10⁹ | ms | CMDL-FCN's time over it | of the matrix product | peak MiB |")
    print("|---|---|---|---|---|---|")
    for name in networks:
        fraction = 2e3 * work[name] / statistics.median(times[name]) / statistics.mean(rates)
        ratio = summarize(ratios(times, "CMDL-FCN", name)) if name != "CMDL-FCN" and "CMDL-FCN" in times else ""
        print(
            f"| {name} | {work[name]:.0f} | {summarize(times[name])} | {ratio} | {100 * fraction:.0f} % | "
            f"{peak_memory(steps[name], args.device):.0f} |",
            flush=True,
        )
    if {"CMDL-FCN", "plain"} <= times.keys():
        extra = extra_losses(args, batch[1]) if is_training else [0.0]
        expected = [work["CMDL-FCN"] / work["plain"] * p + statistics.median(extra) for p in times["plain"]]
        excess = [ours / wanted for ours, wanted in zip(times["CMDL-FCN"], expected, strict=True)]
        print(
            f"\nCMDL-FCN over plain, by multiply-adds and extra losses of {statistics.median(extra):.0f} ms: "
            f"{summarize(excess)}",
            flush=True,
        )
    return times


def extra_losses(args: argparse.Namespace, labels: Tensor) -> list[float]:
    """Time the two image-size losses that CMDL has more than the network without, in ms: forward and backward."""
    from cmdl_hf.models.cross_entropy_cmdl import image_size_cross_entropy

    logits = torch.randn(len(labels), args.num_labels, args.size // 8, args.size // 8, device=args.device)
    logits.requires_grad_()

    def step() -> None:
        loss = image_size_cross_entropy(logits, labels) + image_size_cross_entropy(logits, labels, align_corners=True)
        loss.backward()

    return time_in_turn({"losses": step}, args.repetitions, args.device)["losses"]


def print_profile(network: nn.Module, args: argparse.Namespace) -> None:
    """Print where a training step spends its time, by operator."""
    batch = make_batch(args, args.batch_size)
    step = make_step(network, batch, True, args)
    step()
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if is_cuda(args.device) else [])
    with profile(activities=activities) as profiler:
        step()
    field = "self_device_time_total" if is_cuda(args.device) else "self_cpu_time_total"
    rows = sorted(profiler.key_averages(), key=lambda row: -getattr(row, field))
    total = sum(getattr(row, field) for row in rows)
    print("\n| operator of a CMDL-FCN training step | share | calls |\n|---|---|---|")
    for row in itertools.islice(rows, 12):
        print(f"| `{row.key[:70]}` | {100 * getattr(row, field) / total:.1f} % | {row.count} |")


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_device_arguments(parser, repetitions=3)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--num-labels", type=int, default=150)
    parser.add_argument("--backbone", default="resnet50", help="of ours and mmseg's; the others keep ResNet-50")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--networks", nargs="+", help="compare these only")
    args = parser.parse_args()
    set_up(args)
    networks = make_networks(args)
    for is_training in (False, True):
        compare(networks, is_training, args)
    if "CMDL-FCN" in networks:
        print_profile(networks["CMDL-FCN"], args)


if __name__ == "__main__":
    main()
