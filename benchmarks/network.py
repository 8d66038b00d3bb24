"""Training step and inference of CMDL-FCN against FCNs of others, ResNet-50 at output stride 8, 512×512, 150 classes.

    python benchmarks/network.py [--device cuda] [--dtype bf16] [--compile] [--only training] [--batch-size 2]

A training step is forward with all losses and backward, without the optimiser; inference ends with logits at image
size. All networks run in turn in one process, on the same random images. Multiply-adds are those torch counts in the
very step. `mmseg` is an FCN of mmsegmentation's design (two 3×3 convolutions and a third on the concatenation with
the input, an auxiliary head of 256 channels, losses at image size by interpolation) on the backbone that ours has;
`plain` is ours without distributions. Inference of CMDL-FCN is also timed with its batch norms folded into the
convolutions, as `segment` and `cmdl predict` do. With `--compile`, one network after the other is compiled and timed
alone, then all in turn. Rates are fractions of the machine's matrix product in the same run.
"""

import argparse
import copy
import itertools
import statistics
import time
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

from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation
from cmdl_hf.models import fold_batch_norms

IGNORE_INDEX = 255
FOLDED = "CMDL-FCN, norms folded"
NETWORKS = ("CMDL-FCN", "plain", "mmseg", "torchvision", "smp")


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


def make_network(name: str, args: argparse.Namespace) -> nn.Module:
    """One of the networks, with random weights."""
    if name in ("CMDL-FCN", "plain"):
        return OurNetwork(args, name == "CMDL-FCN")
    if name == "mmseg":
        return OtherNetwork(ReferenceFCN(args), lambda output: output)
    if name == "torchvision":
        from torchvision.models.segmentation import fcn_resnet50

        fcn = fcn_resnet50(weights=None, weights_backbone=None, num_classes=args.num_labels, aux_loss=True)
        return OtherNetwork(fcn, lambda output: (output["out"], output.get("aux")))
    import segmentation_models_pytorch as smp

    deeplab = smp.DeepLabV3("resnet50", encoder_weights=None, encoder_output_stride=8, classes=args.num_labels)
    return OtherNetwork(deeplab, lambda output: (output, None))


def make_networks(args: argparse.Namespace) -> dict[str, nn.Module]:
    """All networks that can be made here."""
    networks: dict[str, nn.Module] = {}
    for name in args.networks:
        try:
            network = make_network(name, args).to(args.device)
        except ImportError as error:
            print(f"{name} is left out: {error.name} is not installed", flush=True)
        else:
            networks[name] = network
    return networks


LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


def make_batch(args: argparse.Namespace, batch_size: int) -> tuple[Tensor, Tensor]:
    """Random images, and labels in patches with a void border."""
    torch.manual_seed(0)
    pixel_values = torch.randn(batch_size, 3, args.size, args.size)
    patches = torch.randint(0, args.num_labels, (batch_size, 1, args.size // 16, args.size // 16))
    labels = F.interpolate(patches.double(), args.size).long()[:, 0]
    labels[:, :8] = IGNORE_INDEX
    pixel_values = pixel_values.to(memory_format=LAYOUTS[args.layout])
    return pixel_values.to(args.device), labels.to(args.device)


def make_step(
    network: nn.Module, batch: tuple[Tensor, Tensor], is_training: bool, args: argparse.Namespace, mode: str = ""
) -> Callable:
    """One training step or one inference; compiled where a mode of `torch.compile` is named."""
    call = torch.compile(network, mode=mode) if mode else network

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


def make_steps(
    networks: dict[str, nn.Module], batch: tuple[Tensor, Tensor], is_training: bool, args: argparse.Namespace
) -> dict[str, Callable]:
    """The steps to time, by name. Compiled ones are done once: how long that took is printed."""
    mode = "default" if args.compile else ""
    if not is_training and "CMDL-FCN" in networks:
        folded = copy.deepcopy(networks["CMDL-FCN"]).eval()
        fold_batch_norms(folded.model)
        networks = networks | {FOLDED: folded}
    steps = {name: make_step(network, batch, is_training, args, mode) for name, network in networks.items()}
    if args.compile and args.reduce_overhead and not is_training:
        for name, network in networks.items():
            steps[f"{name}, reduce-overhead"] = make_step(network, batch, False, args, "reduce-overhead")
    for name, step in steps.items() if args.compile else ():
        begin = time.perf_counter()
        step()
        if is_cuda(args.device):
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
        alone = time_in_turn({name: step}, args.repetitions, args.device, warmups=3)[name]
        print(f"{name}: first step {seconds:.1f} s, alone {summarize(alone)} ms", flush=True)
    return steps


def count(step: Callable[[], None]) -> float:
    """Count multiply-adds of a step, in units of 10⁹."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 2e9


def compare(networks: dict[str, nn.Module], is_training: bool, args: argparse.Namespace) -> dict[str, list[float]]:
    """Print the table of training or inference; returns ms by network."""
    batch = make_batch(args, args.batch_size if is_training else 1)
    what = f"{'Training step' if is_training else 'Inference'}, {len(batch[0])} images, {args.layout}"
    print(f"\n{what}", flush=True)  # what is compiled appears below
    work = {name: count(make_step(network, batch, is_training, args)) for name, network in networks.items()}
    steps = make_steps(networks, batch, is_training, args)
    rates = [matmul_rate(args)]
    times = time_in_turn(steps, args.repetitions, args.device, warmups=3 if is_cuda(args.device) else 1)
    rates.append(matmul_rate(args))
    print(f"{what}; matrix product {rates[0]:.0f} and {rates[1]:.0f} GFLOP/s\n")
    print("| network | multiply-adds, 10⁹ | ms | CMDL-FCN's time over it | of the matrix product | peak MiB |")
    print("|---|---|---|---|---|---|")
    for name in steps:
        multiply_adds = work[name.partition(",")[0]]
        fraction = 2e3 * multiply_adds / statistics.median(times[name]) / statistics.mean(rates)
        ratio = summarize(ratios(times, "CMDL-FCN", name)) if name != "CMDL-FCN" and "CMDL-FCN" in times else ""
        print(
            f"| {name} | {multiply_adds:.0f} | {summarize(times[name])} | {ratio} | {100 * fraction:.0f} % | "
            f"{peak_memory(steps[name], args.device):.0f} |",
            flush=True,
        )
    if FOLDED in times:
        over = [f"{name} {summarize(ratios(times, FOLDED, name))}" for name in networks]
        print(f"\n{FOLDED}, over {', '.join(over)}", flush=True)
    if {"CMDL-FCN", "plain"} <= times.keys() and not args.compile:
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
    step()  # other steps before may have been of another kind
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
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=["contiguous"], help="one after the other")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="compare these only")
    parser.add_argument("--only", choices=["inference", "training"])
    parser.add_argument("--reduce-overhead", action="store_true", help="with --compile: inference in this mode, too")
    args = parser.parse_args()
    set_up(args)
    networks = make_networks(args)
    for layout in args.layouts:
        args.layout = layout
        for network in networks.values():
            network.to(memory_format=LAYOUTS[layout])
        for is_training in (False, True):
            if args.only != ("inference" if is_training else "training"):
                compare(networks, is_training, args)
    if "CMDL-FCN" in networks and not (args.only or args.compile):
        print_profile(networks["CMDL-FCN"], args)


if __name__ == "__main__":
    main()
