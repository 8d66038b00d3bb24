"""The card of a prepared data set: metadata for `load_dataset` and the Hub, and a description for people."""

from collections.abc import Iterable

import datasets
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData

from ..escaping import code_span, code_string, for_markdown, markdown_table
from .label_table import IGNORE_INDEX
from .listing import Layout
from .parquet import CLASSES_FILE, NAMES_FILE
from .sets.base import SegmentationDataset
from .sets.benchmark import Benchmark

_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
"""The Hub's size categories, by upper limit of the number of samples."""

_TEXT = """\
---
{metadata}
---

# {title}

{title} for semantic segmentation: {num_images:,} images, {num_labels} classes. Prepared with `cmdl_hf` from the
owner's original files (layout "{layout}"). The images have their original bytes.

```python
from datasets import load_dataset

dataset = load_dataset({path})  # with streaming=True nothing is downloaded first
sample = dataset[{split}][0]  # image, label, id
```

## Labels

`label` is an 8-bit image of the ids below. The value {ignore_index} marks pixels to ignore. The owner's ids are
already mapped to these ids: do not shift or reduce them again. `{names_file}` has the names of the classes,
`{classes_file}` names and colours. {load_hub} loads both.

{classes}

## Splits

{splits}
{left_out}
## License and source

{license}. Source: {homepage}

## Citation

```bibtex
{citation}
```
"""


def make_dataset_card(
    dataset: SegmentationDataset, info: datasets.DatasetInfo, benchmark: Benchmark, layout: Layout, path: str
) -> DatasetCard:
    """Make the card of a benchmark written with `write_parquet`.

    Args:
        dataset (`SegmentationDataset`): The data set.
        info (`datasets.DatasetInfo`): The result of `write_parquet`.
        benchmark (`Benchmark`): Description of the data set.
        layout (`Layout`): Layout of the original files, with the number of images of complete splits.
        path (`str`): `"organisation/name"` or name of the folder, for the example in the card.

    Returns:
        `huggingface_hub.DatasetCard`. Save it as `README.md` beside `data/`.
    """
    num_images = sum(len(rows) for rows in dataset.values())
    classes = zip(dataset.id2label.items(), dataset.palette, strict=True)
    example = code_string(path)
    text = _TEXT.format(
        metadata=_metadata(info, benchmark, num_images).to_yaml(),
        title=benchmark.title,
        num_images=num_images,
        num_labels=dataset.num_labels,
        layout=layout.name,
        path=example,
        split=code_string(next(iter(dataset))),
        load_hub=code_span(f'cmdl_hf.data.load_hub({example}, mask_column="label")'),
        ignore_index=IGNORE_INDEX,
        classes_file=CLASSES_FILE,
        names_file=NAMES_FILE,
        classes=markdown_table(
            ("id", "name", "colour"),
            ((id_, name, code_span("#{:02x}{:02x}{:02x}".format(*color))) for (id_, name), color in classes),
        ),
        splits=markdown_table(("split", "images", "complete", "labels"), _split_rows(dataset, benchmark, layout)),
        left_out=_left_out(dataset),
        license=benchmark.license,
        homepage=benchmark.homepage,
        citation=benchmark.citation,
    )
    return DatasetCard(text)


def _metadata(info: datasets.DatasetInfo, benchmark: Benchmark, num_images: int) -> DatasetCardData:
    card_data = DatasetCardData(
        pretty_name=benchmark.title,
        license="other",  # the Hub has no name for the owners' licences
        license_name=f"{benchmark.name.replace('_', '-')}-terms",
        license_link=benchmark.homepage.split()[0],
        task_categories=["image-segmentation"],
        task_ids=["semantic-segmentation"],
        size_categories=next((size for limit, size in _SIZES.items() if num_images < limit), "n>1M"),
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(card_data)
    data_files = [{"split": split, "path": f"data/{split}-*"} for split in info.splits]
    MetadataConfigs({"default": {"data_files": data_files}}).to_dataset_card_data(card_data)
    return card_data


def _split_rows(
    dataset: SegmentationDataset, benchmark: Benchmark, layout: Layout
) -> Iterable[tuple[str, str, str, str]]:
    for split, rows in dataset.items():
        labels = "withheld by the owner" if split in benchmark.unlabelled_splits else "yes"
        yield split, f"{len(rows):,}", f"{layout.num_images[split]:,}", labels


def _left_out(dataset: SegmentationDataset) -> str:
    """List the files that were skipped."""
    if not dataset.bad_files:
        return ""
    lines = [f"- {code_span(error.path.name)}: {for_markdown(error.args[1])}" for error in dataset.bad_files]
    return f"\n{len(lines)} file(s) of the owner were left out:\n\n" + "\n".join(lines) + "\n"
