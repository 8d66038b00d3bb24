import csv

import pytest

from cmdl_hf.data import LabelTable, load_pairs
from cmdl_hf.data.csv_rows import read_csv_rows


def test_lines_and_quotes_are_read_whole():
    text = 'id,name\r\n0,"a, b"\r\n\r\n1,"two\nlines"\r\n'
    assert read_csv_rows(text) == [{"id": "0", "name": "a, b"}, {"id": "1", "name": "two\nlines"}]
    assert read_csv_rows("") == read_csv_rows("id,name\n") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,name\n0,road,wet\n", "must have 2 cells, as the first one has, found 3 in line 2; put texts with commas"),
        ("id,name\n0\n", "must have 2 cells, as the first one has, found 1 in line 2"),
        ("id,name,id\n0,a,1\n", "every column must be named once, found id,name,id; rename one"),
    ],
)
def test_no_cell_gets_lost(text, message):
    with pytest.raises(ValueError, match=message):
        read_csv_rows(text)


def test_an_open_quote_is_an_error():
    with pytest.raises(csv.Error):
        read_csv_rows('id,name\n0,"road\n')


def test_every_reader_of_tables_takes_it(tmp_path):
    """A cell too many made a traceback in a file of classes, and got lost in a list of pairs."""
    classes, pairs = tmp_path / "classes.csv", tmp_path / "pairs.csv"
    classes.write_text("id,name\n0,road,wet\n1,car\n")
    pairs.write_text("image,mask\na.jpg,a.png,b.png\n")
    with pytest.raises(ValueError, match=r"classes.csv: every line must have 2 cells"):
        LabelTable.from_file(classes)
    with pytest.raises(ValueError, match=r"pairs.csv: every line must have 2 cells"):
        load_pairs(pairs, ["a", "b"])


def test_two_spellings_of_one_id_are_refused(tmp_path):
    file = tmp_path / "classes.json"
    file.write_text('{"0": "sky", "1": "road", "01": "car"}')
    with pytest.raises(ValueError, match=r"every id must occur once, found 1 twice"):
        LabelTable.from_file(file)
