"""Saving and loading of adapters, in a folder or on the Hub.

Reference: CMDL, class-wise multiple distributions learning, described as MDRL in arXiv 2303.08029.
"""

import json
import logging
from pathlib import Path
from typing import Any, Self, cast

from huggingface_hub import ModelHubMixin, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from .configuration_cmdl import CMDLConfig
from .hub_errors_cmdl import can_reach_hub, check_hub_name, explain_hub_error
from .saving_cmdl import refuse_links
from .segmenter_cmdl import build_segmenter, describe_segmenter

logger = logging.getLogger(__name__)

_CONFIG_FILE, _WEIGHTS_FILE = "config.json", "model.safetensors"

_CARD = """---
{{ card_data }}
---
# A segmenter with CMDL

Class-wise multiple distributions learning, added to a segmenter by `CMDLAdapter` of cmdl_hf. `config.json` names the
segmenter.

```python
from cmdl_hf import CMDLAdapter

model = CMDLAdapter.from_pretrained("ORGANISATION/NAME")  # pass segmenter=... if config.json names no library
logits = model(pixel_values)
```
"""


class CMDLAdapterHubMixin(
    ModelHubMixin,
    library_name="cmdl_hf",
    pipeline_tag="image-segmentation",
    tags=["cmdl", "semantic-segmentation"],
    model_card_template=_CARD,
):
    """`save_pretrained`, `from_pretrained` and `push_to_hub` of an adapter, with the weights of the segmenter."""

    config: CMDLConfig
    classifier_name: str
    segmenter: nn.Module
    _options: dict[str, Any]

    def _save_pretrained(self, save_directory: Path) -> None:
        refuse_links(save_directory)
        config = {
            "classifier": self.classifier_name,
            "num_labels": self.config.num_labels,
            "options": self._options,
            "segmenter": describe_segmenter(self.segmenter),
        }
        if "library" not in config["segmenter"]:
            logger.warning(
                f"{type(self.segmenter).__name__} cannot be rebuilt from its configuration, or was changed after it "
                f"was built: to load {save_directory}, pass a segmenter of the same structure to "
                "CMDLAdapter.from_pretrained(..., segmenter=...)"
            )
        save_model(cast(nn.Module, self), str(save_directory / _WEIGHTS_FILE))
        (save_directory / _CONFIG_FILE).write_text(json.dumps(config, indent=2), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """Load an adapter that `save_pretrained` or `push_to_hub` saved; see `ModelHubMixin`.

        Args:
            pretrained_model_name_or_path (`str` or `Path`): Folder or Hub name.
            **kwargs: `segmenter` if it has to be passed, and where to take the files from: `revision`, `token`,
                `cache_dir`, `local_files_only`, `force_download`.

        Raises:
            OSError: if the Hub does not hand out the adapter. The message says why.
            ValueError: if it is no adapter, or its segmenter cannot be rebuilt.
            TypeError: if its options are to be changed.
        """
        name = str(pretrained_model_name_or_path)
        if not Path(name).is_dir() and not kwargs.get("local_files_only"):
            check_hub_name(pretrained_model_name_or_path)
            kwargs["local_files_only"] = not can_reach_hub()
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except (OSError, HFValidationError) as error:
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                raise OSError(f"{name} holds no adapter saved with CMDLAdapter.save_pretrained ({error})") from error
            reason = None if Path(name).is_dir() else explain_hub_error(name, error)
            if reason is None:
                raise
            raise OSError(reason) from error

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        config: dict[str, Any] | None = None,
        segmenter: Any = None,
        **model_kwargs: Any,
    ) -> Self:
        """Load a saved adapter. The segmenter is rebuilt from the saved configuration, or passed by the caller."""
        origin: dict[str, Any] = {
            "revision": revision,
            "cache_dir": cache_dir,
            "force_download": force_download,
            "local_files_only": local_files_only,
            "token": token,
        }
        if config is None and not Path(model_id).is_dir():
            hf_hub_download(model_id, _CONFIG_FILE, **origin)  # which raises what from_pretrained only logged
        config = config or {}
        if "classifier" not in config or "options" not in config:
            raise ValueError(
                f"{model_id} holds no adapter saved with CMDLAdapter.save_pretrained. Load complete networks with "
                "CMDLForSemanticSegmentation.from_pretrained. Load weights without configuration, as transformers' "
                "Trainer saves them, with load_state_dict of a new adapter"
            )
        if changed := [name for name, value in model_kwargs.items() if config.get(name) != value]:
            raise TypeError(
                f"a saved adapter keeps its options, so CMDLAdapter.from_pretrained cannot change "
                f"{', '.join(changed)}; pass only the folder or name, and segmenter=... if needed"
            )
        if segmenter in (None, config["segmenter"]):
            segmenter = build_segmenter(config["segmenter"])
        model = cast(Any, cls)(segmenter, config["classifier"], config["num_labels"], **config["options"])
        file: str | Path = Path(model_id) / _WEIGHTS_FILE
        if not Path(model_id).is_dir():
            file = hf_hub_download(model_id, _WEIGHTS_FILE, **origin)
        try:
            load_model(model, str(file))
        except (FileNotFoundError, SafetensorError) as error:
            raise OSError(f"{file} cannot be read ({error}); save or download the adapter again") from error
        return model.eval()
