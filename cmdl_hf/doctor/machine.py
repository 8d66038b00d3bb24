"""Versions, devices, optional packages, the login to the Hub, and the folders of downloads."""

import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
from huggingface_hub import constants, get_session, get_token
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers
from packaging.requirements import InvalidRequirement, Requirement

from .. import __version__
from ..extras import find_checkout, install_command, list_extras, list_requirements
from ..training import bf16_slowdown
from .findings import Finding, format_size

_PATIENCE = 2.0  # seconds for the Hub's answer
_SECONDS = 0.4  # in which the files of a folder are counted
_LITTLE = 2e9  # bytes of free disk that are too few for a download of weights


def examine_machine() -> Iterator[Finding]:
    """Yield what is installed, what PyTorch can use, and what the Hub and its folders allow. It takes seconds."""
    yield from _versions()
    yield from _devices()
    yield from _extras()
    yield from _hub()
    yield from _folders()


def _versions() -> Iterator[Finding]:
    topic = "Versions"
    checkout = find_checkout()
    origin = f"from the checkout {checkout}" if checkout else "installed"
    yield Finding(topic, "cmdl_hf", f"{__version__}, {origin}")
    yield Finding(topic, "python", f"{platform.python_version()}, {platform.platform()}")
    for text in list_requirements():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        found = _version(requirement.name)
        if found is None:
            yield Finding(topic, requirement.name, f"missing: pip install '{text}'", is_broken=True)
        elif not requirement.specifier.contains(found, prereleases=True):
            cure = f"{found} does not fit {requirement.specifier}: pip install '{text}'"
            yield Finding(topic, requirement.name, cure, is_broken=True)
        else:
            yield Finding(topic, requirement.name, found)


def _devices() -> Iterator[Finding]:
    topic = "Devices"
    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding(
        topic,
        "CPU",
        f"{_processor()}, cores: {cores}, threads of PyTorch: {torch.get_num_threads()}, {format_size(memory.total)} "
        f"memory, {format_size(memory.available)} available",
    )
    slowdown = bf16_slowdown()
    fast = "fast" if slowdown < 1 else "slow, so leave mixed_precision at no"
    yield Finding(topic, "bf16 on the CPU", f"{fast}: a convolution takes {slowdown:.1f} times as long as in float32")
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
        yield Finding(topic, "accelerator", f"none that PyTorch can use; it was built for {built}")
    elif accelerator.type != "cuda":
        yield Finding(topic, "accelerator", accelerator.type)
    else:
        yield from map(_gpu, range(torch.cuda.device_count()))


def _gpu(index: int) -> Finding:
    name = f"cuda:{index}"
    try:
        free, total = torch.cuda.mem_get_info(index)
        with torch.cuda.device(index):
            has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    except RuntimeError as error:
        return Finding("Devices", name, f"cannot be used: {str(error).splitlines()[0]}", is_broken=True)
    return Finding(
        "Devices",
        name,
        f"{torch.cuda.get_device_name(index)}, {format_size(total)} memory, {format_size(free)} free, bf16 is "
        f"{'fast' if has_bf16 else 'slow, so choose fp16'}",
    )


def _processor() -> str:
    """Return the name of the processor, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _extras() -> Iterator[Finding]:
    for extra, packages in list_extras().items():
        versions = {package: _version(package) for package in packages}
        if missing := [package for package, version in versions.items() if version is None]:
            yield Finding("Extras", extra, f"missing {', '.join(missing)}: {install_command(extra)}")
        else:
            found = ", ".join(f"{package} {version}" for package, version in versions.items())
            yield Finding("Extras", extra, found)


def _hub() -> Iterator[Finding]:
    topic, token = "Hub", get_token()
    yield Finding(topic, "endpoint", constants.ENDPOINT)
    origin = "the variable HF_TOKEN" if os.environ.get("HF_TOKEN") else "hf auth login"
    yield Finding(topic, "token", f"set by {origin}" if token else "none; hf auth login sets one")
    try:
        address = f"{constants.ENDPOINT}/api/whoami-v2"
        answer = get_session().get(address, headers=build_hf_headers(), timeout=_PATIENCE)
    except OfflineModeIsEnabled:
        yield Finding(topic, "connection", "not tried: HF_HUB_OFFLINE is set")
    except (HTTPError, OSError) as error:
        yield Finding(topic, "connection", f"the Hub cannot be reached ({type(error).__name__})")
    else:
        yield Finding(topic, "connection", "the Hub can be reached")
        if token is not None:
            yield _login(answer.status_code, answer.text if answer.status_code != 200 else answer.json().get("name"))


def _login(status: int, name: str | None) -> Finding:
    if status == 200:
        return Finding("Hub", "login", f"as {name}")
    if status == 401:
        return Finding("Hub", "login", "the Hub does not accept the token: hf auth login", is_broken=True)
    return Finding("Hub", "login", f"not known: the Hub answered with status {status}")


def _folders() -> Iterator[Finding]:
    # Those of `datasets`, which takes seconds to import.
    cache = os.environ.get("HF_DATASETS_CACHE") or str(Path(constants.HF_HOME) / "datasets")
    for name, folder in {
        "HF_HOME": Path(constants.HF_HOME),
        "models": Path(constants.HF_HUB_CACHE),
        "data sets": Path(cache).expanduser(),
        "here": Path.cwd(),
    }.items():
        yield _folder(name, folder)


def _folder(name: str, folder: Path) -> Finding:
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        problem = "cannot be written to" if place.is_dir() else f"cannot be made, because {place} is a file"
        cure = "work in another folder" if name == "here" else "set HF_HOME to another folder"
        return Finding("Folders", name, f"{folder} {problem}; {cure}", is_broken=True)
    free = shutil.disk_usage(place).free
    parts = [f"{format_size(free)} free" + (", which is little" if free < _LITTLE else "")]
    if not folder.exists():
        parts.insert(0, "not there yet")
    elif name != "here":
        parts.insert(0, _measure(folder))
    return Finding("Folders", name, f"{folder}: {', '.join(parts)}")


def _measure(folder: Path) -> str:
    """Add up the sizes of the files in a folder, for a moment only."""
    total, end = 0, time.perf_counter() + _SECONDS
    for parent, _, files in os.walk(folder):
        for file in files:
            path = os.path.join(parent, file)
            total += 0 if os.path.islink(path) else os.stat(path, follow_symlinks=False).st_size
            if time.perf_counter() > end:
                return f"more than {format_size(total)}"
    return format_size(total)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
