"""Export segmenters to one file, and compare this file with the model."""

import importlib.util
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram

from .. import __version__
from ..extras import install_command
from ..files import check_can_write, new_file
from ..inference import load_segmenter
from ..visualization import default_palette
from .gathering import copy_to_cpu
from .preprocessing import describe_preprocessing
from .tracing import first_line, num_channels, trace

logger = logging.getLogger(__name__)

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}
"""Formats, with the suffixes of their files."""

OUTPUTS = {"logits": ("logits",), "classes": ("logits", "classes")}
"""What a file may compute, with the names of its outputs."""

METADATA_FILE = "metadata.json"
"""The extra file of a torch.export file that holds its metadata."""

TOLERANCE = 1e-4
"""Largest allowed difference of logits. It is relative to the largest logit if that exceeds 1 in absolute value."""

_Run: TypeAlias = Callable[[Tensor], Sequence[Tensor]]
"""A function from pixel values to the outputs of a file."""

_CHECKED = (
    (1, 97, 131),
    (3, 192, 160),
    (3, 224, 336),
    (1, 448, 224),
)  # the first three that the model accepts are used


@dataclass(frozen=True)
class ExportReport:
    """Facts about an exported file.

    Args:
        path (`Path`): The file.
        num_bytes (`int`): Size of the file.
        image_size (`tuple[int, int]`, *optional*): Height and width of the accepted images; None for every size.
        checked_shapes (`tuple`): Shapes (B, channels, H, W) of the inputs on which file and model were compared.
        max_difference (`float`, *optional*): Largest difference between the logits of file and model; None if the
            file could not be run, because onnxruntime is missing.
    """

    path: Path
    num_bytes: int
    image_size: tuple[int, int] | None
    checked_shapes: tuple[tuple[int, ...], ...]
    max_difference: float | None


def export_model(
    model: nn.Module | str | Path,
    path: str | Path,
    format: str = "onnx",
    image_size: Sequence[int] | None = None,
    opset: int | None = None,
    image_processor: Any = None,
    trust_remote_code: bool = False,
    output: str = "logits",
) -> ExportReport:
    """Export a semantic segmenter to one file, and compare the file's logits with the model's.

    The file is for inference in float32, without dropout, auxiliary head and losses. For a CMDL model, it contains the
    product of memory bank and vote fusion, which is constant (K×C numbers instead of K·M·C + M·C²). It accepts any
    batch size and, if the backbone allows it, any image size. Otherwise the log names the one accepted size. If the
    logits of file and model differ, the file is deleted.

    Args:
        model (`nn.Module`, `str` or `Path`): A semantic segmenter of transformers, CMDL or not; or its folder or
            Hub name, to load it with its image processor.
        path (`str` or `Path`): File to write, `.onnx` or `.pt2`. Missing folders are created.
        format (`str`): `"onnx"`, or `"torch-export"` for `torch.export.load`. The latter rejects images
            whose feature grid has only one row or column, and sizes that the model rejects. ONNX does not check this.
        image_size (`Sequence[int]`, *optional*): Height and width of the only image size that the file will accept.
        opset (`int`, *optional*): Version of the ONNX operator set. By default, the version that torch recommends.
        image_processor (*optional*): Image processor for the metadata, if `model` is not a name.
        trust_remote_code (`bool`): Whether to run Python files that come with the model.
        output (`str`): `"logits"`, or `"classes"` for these too, (B, H, W) int64 at the size of the input.

    Returns:
        `ExportReport`.

    Raises:
        FileNotFoundError: if the model or its config does not exist.
        ImportError: if the format is ONNX and onnx or onnxscript is not installed.
        OSError: if the file cannot be written.
        ValueError: if options are invalid, the model cannot be exported, the metadata cannot say what the image
            processor does, or the logits of file and model differ.

    Example:
        ```python
        >>> from cmdl_hf import CMDLForSemanticSegmentation
        >>> from cmdl_hf.export import export_model

        >>> report = export_model("outputs/demo/model", "outputs/model.onnx")
        >>> report.max_difference < 1e-4
        True
        ```
    """
    path = Path(path)
    _check_options(path, format, image_size, opset, output)
    names = OUTPUTS[output]
    check_can_write(path, is_folder=False)
    with new_file(path) as unfinished:
        name, reference, image_processor = _load(model, image_processor, trust_remote_code)
        metadata = _describe(reference, name, image_processor)
        program, fixed_size = trace(reference, image_size, image_processor, has_classes="classes" in names)
        run = _write(program, unfinished, format, opset, metadata | {"image_size": fixed_size}, names)
        shapes, difference = ((), None) if run is None else _compare(reference, run, fixed_size)
    return ExportReport(path, path.stat().st_size, fixed_size, shapes, difference)


def _check_options(path: Path, format: str, image_size: Sequence[int] | None, opset: int | None, output: str) -> None:
    """Check the options before the export starts."""
    if output not in OUTPUTS:
        raise ValueError(f"output must be one of {', '.join(OUTPUTS)}, got {output!r}")
    if format not in SUFFIXES:
        raise ValueError(f"format must be one of {', '.join(SUFFIXES)}, got {format!r}")
    if path.suffix != SUFFIXES[format]:
        raise ValueError(
            f"a file of format {format} ends in {SUFFIXES[format]}, got {path}; name {_renamed(path, format)}"
        )
    if image_size is not None and (len(image_size) != 2 or min(image_size) < 1):
        raise ValueError(f"image_size must be height and width in pixels, got {tuple(image_size)}")
    if format != "onnx":
        if opset is not None:
            raise ValueError(f"opset is only for format onnx, got opset={opset} with {format}; leave it out")
        return
    if missing := [package for package in ("onnx", "onnxscript") if importlib.util.find_spec(package) is None]:
        raise ImportError(f"export to ONNX needs {' and '.join(missing)}: {install_command('export')}")


def _renamed(path: Path, format: str) -> Path:
    return path.with_name(f"{path.stem or 'model'}{SUFFIXES[format]}")


def _load(model: nn.Module | str | Path, image_processor: Any, trust_remote_code: bool) -> tuple[str, nn.Module, Any]:
    """Name the model, and load it if only its name is given: in float32, in eval mode, on the CPU."""
    if isinstance(model, nn.Module):
        return type(model).__name__, copy_to_cpu(model).float().eval(), image_processor
    reference, image_processor = load_segmenter(model, trust_remote_code)
    return _name(model), reference.float(), image_processor


def _name(model: str | Path) -> str:
    """Name a model without its path."""
    return Path(model).resolve().name if Path(model).is_dir() else str(model)


def _describe(model: nn.Module, name: str, image_processor: Any) -> dict[str, Any]:
    """Gather the metadata that the module's docstring lists, but for the image size."""
    config: Any = model.config
    return {
        "cmdl_hf_version": __version__,
        "model_name": name,
        "id2label": {str(i): label for i, label in config.id2label.items()},
        "palette": getattr(config, "palette", None) or default_palette(config.num_labels),
        "preprocessing": None
        if image_processor is None
        else describe_preprocessing(image_processor, num_channels(model)),
    }


def _write(
    program: ExportedProgram,
    unfinished: Path,
    format: str,
    opset: int | None,
    metadata: dict[str, Any],
    names: Sequence[str],
) -> _Run | None:
    """Write a program to a file, and load the file; returns what computes the outputs by it."""
    logger.info("writing the file and comparing its logits with the model's")
    if format == "onnx":
        _write_onnx(program, unfinished, opset, metadata, names)
        return _open_onnx(unfinished, names)
    torch.export.save(program, unfinished, extra_files={METADATA_FILE: json.dumps(metadata)})
    return _open_program(unfinished)


def _write_onnx(
    program: ExportedProgram, unfinished: Path, opset: int | None, metadata: dict[str, Any], names: Sequence[str]
) -> None:
    """Translate a program into an ONNX file that holds its weights."""
    try:
        onnx_program = torch.onnx.export(
            program, input_names=["pixel_values"], output_names=list(names), opset_version=opset, verbose=False
        )
    except Exception as error:  # of the exporter, whose classes differ between releases
        raise ValueError(
            f"this model cannot be written as ONNX ({first_line(error)}); try another opset or one image size "
            "(--image-size), or format torch-export"
        ) from error
    assert onnx_program is not None
    graph = onnx_program.model.graph
    found = onnx_program.model.opset_imports.get("")
    if opset not in (None, found):
        raise ValueError(f"opset {opset} cannot be had, only {found}; leave opset out, or choose another")
    axes = zip(graph.inputs[0].shape or (), ("batch", "channels", "height", "width"), strict=True)
    onnx_program.rename_axes({axis: name for axis, name in axes if not isinstance(axis, int)})
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in metadata.items()}
    onnx_program.model.metadata_props.update(texts)
    onnx_program.save(unfinished, external_data=False)


def _open_onnx(path: Path, names: Sequence[str]) -> _Run | None:
    """Load an ONNX file into ONNX Runtime, where that is installed."""
    try:
        import onnxruntime
    except ImportError:
        logger.warning("The file was not compared with the model, for which: %s", install_command("export"))
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised, too
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's classes have no common base
        raise ValueError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load the exported file ({first_line(error)}); try "
            "another opset"
        ) from error
    return lambda pixel_values: [
        torch.from_numpy(array) for array in session.run(list(names), {"pixel_values": pixel_values.numpy()})
    ]


def _open_program(path: Path) -> _Run:
    module = torch.export.load(path).module()
    return lambda pixel_values: outputs if isinstance(outputs := module(pixel_values), tuple) else [outputs]


@torch.no_grad()
def _compare(
    model: nn.Module, run: _Run, image_size: tuple[int, int] | None
) -> tuple[tuple[tuple[int, ...], ...], float]:
    """Compare the outputs of model and file; return the shapes of the inputs and the logits' largest difference."""
    generator = torch.Generator().manual_seed(0)
    candidates = _CHECKED if image_size is None else ((1, *image_size), (3, *image_size))
    shapes: list[tuple[int, ...]] = []
    largest = 0.0
    for batch_size, *size in candidates:
        pixel_values = torch.randn(batch_size, num_channels(model), *size, generator=generator)
        try:
            expected = model(pixel_values=pixel_values).logits
        except Exception as error:  # the backbone accepts only some sizes, such as multiples of its patches
            logger.debug("The model does not accept images of %s: %s", size, error)
            continue
        shape = tuple(pixel_values.shape)
        try:
            found, *classes = run(pixel_values)
        except Exception as error:  # raised by ONNX Runtime or by a guard of torch.export
            reason = first_line(error)
            raise ValueError(f"the exported file fails on pixel_values {shape}: {reason}; {_CURE}") from error
        difference = (found - expected).abs().max().item() if found.shape == expected.shape else float("inf")
        allowed = TOLERANCE * max(1.0, expected.abs().max().item())
        if not difference <= allowed:
            raise ValueError(
                f"the logits of file and model are not equal: on pixel_values {shape} they differ by "
                f"{difference:.1e}, more than {TOLERANCE:.0e}; {_CURE}"
            )
        if classes and not _are_best(classes[0], expected, size, 2 * allowed):
            raise ValueError(
                f"on pixel_values {shape} the file's classes are not those with the largest scores; {_CURE}"
            )
        shapes.append(shape)
        largest = max(largest, difference)
        if len(shapes) == 3:
            break
    if not shapes:
        raise ValueError(f"the model accepts none of the image sizes for the comparison, {list(candidates)}; {_CURE}")
    return tuple(shapes), largest


def _are_best(classes: Tensor, logits: Tensor, size: Sequence[int], allowed: float) -> bool:
    """Whether the classes (B, H, W) have the largest scores at image size, but for what rounding allows."""
    scores = F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
    if classes.shape != scores[:, 0].shape:
        return False
    return bool((scores.amax(dim=1) - scores.gather(1, classes[:, None])[:, 0]).max() <= allowed)


_CURE = "export it for one size, --image-size HEIGHT WIDTH, or in the other format"
