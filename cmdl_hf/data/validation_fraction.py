"""The share of the training images that is set apart for validation. A recipe checks it without loading `datasets`."""

VALIDATION_FRACTION = 0.2
"""Share of the training images that is set apart by default."""

VALIDATION_FILE = "validation_ids.txt"
"""File of a run that lists the ids of the images set apart, one a line."""


def check_fraction(fraction: float) -> None:
    """Refuse a share of validation images that is not in (0, 1)."""
    if not 0 < fraction < 1:
        raise ValueError(
            f"validation_fraction must lie in (0, 1), found {fraction}; to train on all images use --no-validation"
        )
