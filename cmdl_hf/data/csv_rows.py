"""Reads tables in CSV files, of which no cell gets lost."""

import csv
import io


def read_csv_rows(text: str) -> list[dict[str, str]]:
    """Read a table whose first line names the columns. Empty lines are passed over.

    Args:
        text (`str`): What the file holds.

    Returns:
        `list[dict[str, str]]`: a row for each line, by column.

    Raises:
        ValueError: if a line has more or fewer cells than the first, or a column is named twice.
        csv.Error: if a quoted text does not end where it should.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[str] = []
    rows = []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if not columns:
            columns = cells
            if len(set(columns)) < len(columns):
                raise ValueError(f"every column must be named once, found {','.join(columns)}; rename one")
        elif len(cells) != len(columns):
            raise ValueError(
                f"every line must have {len(columns)} cells, as the first one has, found {len(cells)} in line "
                f"{reader.line_num}; put texts with commas in double quotes"
            )
        else:
            rows.append(dict(zip(columns, cells, strict=True)))
    return rows
