import pytest

from cmdl_hf.data import BENCHMARKS, Label, LabelTable

FULL = "raw_id,train_id,name,red,green,blue\n0,255,void,0,0,0\n4,1,road,1,2,3\n9,0,sky,4,5,6\n7,1,lane,7,8,9\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.txt", "sky\nroad\n"),
        ("classes.json", '["sky", "road"]'),
        ("classes.json", '{"1": "road", "0": "sky"}'),
        ("classes.csv", "id,name\n1,road\n0,sky\n"),
        ("classes.csv", FULL),
    ],
)
def test_classes_from_a_file(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8-sig")
    table = LabelTable.from_file(path)
    assert table.id2label == {0: "sky", 1: "road"}
    assert table.num_labels == len(table.palette) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("classes.txt", "sky\n\nroad\n", "line 2 is empty"),
        ("classes.json", '"sky"', "a list of names, or an object"),
        ("classes.json", '{"1": "road", "2": "sky"}', r"must be 0..K-1 .*found \[1, 2\]"),
        ("classes.csv", "number,class\n0,sky\n", "expected the columns id,name or .*found number,class"),
        ("classes.yaml", "", "read from .txt, .json and .csv"),
        ("classes.csv", FULL + "9,0,sun,0,0,0\n", r"one row per raw id, found several for \[9\]"),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        LabelTable.from_file(path)
    assert str(path) in str(caught.value)


def test_several_raw_ids_may_make_one_class(tmp_path):
    (tmp_path / "t.csv").write_text(FULL)
    table = LabelTable.from_file(tmp_path / "t.csv")
    assert table.raw_to_train == {0: 255, 4: 1, 9: 0, 7: 1}
    assert table.palette == [[4, 5, 6], [1, 2, 3]]
    assert table.of_train_ids.raw_to_train == {0: 0, 1: 1, 255: 255}
    assert (table.of_train_ids.id2label, table.of_train_ids.palette) == (table.id2label, table.palette)


def test_names_alone_get_pascal_vocs_colours():
    table = LabelTable.from_names(["a", "b", "c", "d"])
    assert table.palette == [[128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert table.raw_to_train[255] == 255


def test_digest_follows_the_content():
    first = LabelTable((Label(0, 0, "sky", (1, 2, 3)),))
    assert first.digest == LabelTable((Label(0, 0, "sky", (1, 2, 3)),)).digest
    assert first.digest != LabelTable((Label(0, 0, "sky", (1, 2, 4)),)).digest


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_every_benchmark_is_described(name):
    benchmark = BENCHMARKS[name]
    assert benchmark.name == name
    assert list(benchmark.id2label) == list(range(benchmark.num_labels))
    assert all(len(colour) == 3 and 0 <= min(colour) <= max(colour) <= 255 for colour in benchmark.palette)
    assert benchmark.homepage in benchmark.origin
    assert benchmark.license in benchmark.origin
    assert benchmark.citation.startswith("@")
    assert benchmark.layouts


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[1, 2]", "the name of class 0 must be a text, found 1; write it in quotes"),
        ("a.json", '{"0": "leaf", "1": null}', "the name of class 1 must be a text, found None"),
        ("a.json", '["", "leaf"]', "the name of class 0 must be a text, found ''"),
        ("a.json", '{"leaf": 0, "root": 1}', r"from ids to names, as in .*found \{'leaf': 0.*; write them like that"),
        ("a.json", '{"0": "leaf", "0": "root"}', "every id must occur once, found '0' twice"),
        ("a.json", '{"0": "leaf",', r"must be JSON, which it is not \(.*; correct it"),
        ("a.json", "[" * 100_000, "must be JSON, which it is not"),
        (
            "a.txt",
            "Stra\xdfe".encode("latin-1"),
            "a text file in UTF-8, found the byte 0xdf at position 4; save it as",
        ),
        ("a.csv", "id,name\n0,leaf".encode("utf-16"), "a text file in UTF-8"),
        ("a.csv", "id,name\nzero,leaf", "must be whole numbers, found 'zero'; correct that row"),
        ("a.csv", "id,name\n0,leaf\n1", "must have 2 cells, as the first one has, found 1"),
        ("a.csv", "id,name\n0,leaf\n0,root", "every id must occur once, found 0 twice"),
        (
            "a.csv",
            "raw_id,train_id,name,red,green,blue\n0,0,leaf,0,0",
            "must have 6 cells, as the first one has, found 5",
        ),
        (
            "a.csv",
            "raw_id,train_id,name,red,green,blue\n0,0,leaf,0,0,256",
            r"must lie in 0\.\.255, found \(0, 0, 256\)",
        ),
        ("a.txt", "\n".join(map(str, range(256))), "there can be up to 255 classes, found 256"),
    ],
)
def test_what_is_no_list_of_classes_is_refused_by_name(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        LabelTable.from_file(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("classes", [{"leaf": 0, "root": 1}, {0: "leaf", 1: 1}, ["leaf", None], {True: "leaf"}])
def test_classes_given_in_python_follow_the_same_rules(classes):
    with pytest.raises(ValueError, match=r"from ids to names|must be a text"):
        LabelTable.from_names(classes)
