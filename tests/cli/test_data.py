import datasets
import numpy as np
import pytest
from PIL import Image

from cmdl_hf import hub
from cmdl_hf.cli import main
from cmdl_hf.data import check_data

FRAMES = ("0016E5_00001", "0016E5_00002")


@pytest.fixture
def camvid(tmp_path, monkeypatch):
    """A tree of CamVid with two frames a split."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    root = tmp_path / "CamVid"
    for folder in ("train", "val", "test"):
        for kind in (folder, f"{folder}annot"):
            (root / kind).mkdir(parents=True)
        for frame in FRAMES:
            Image.new("RGB", (8, 6), (90, 120, 200)).save(root / folder / f"{frame}.png")
            ids = np.resize(np.arange(12, dtype=np.uint8), (6, 8))
            Image.fromarray(ids).save(root / f"{folder}annot" / f"{frame}.png")
    return root


def _run(*arguments):
    """Run a command; return its exit status."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


def test_prepare_writes_what_load_dataset_reads(camvid, tmp_path, capsys):
    main(["prepare", "camvid", "--data-dir", str(camvid), "--out", str(tmp_path / "out"), "--splits", "train", "test"])
    assert "train: 2 images\ntest: 2 images" in capsys.readouterr().out
    read = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert list(read) == ["train", "test"]
    assert np.asarray(read["test"][0]["label"]).ravel()[:12].tolist() == [*range(11), 255]
    assert 'load_dataset("out")' in (tmp_path / "out" / "README.md").read_text()


def test_prepare_skips_bad_files_on_request_and_the_card_lists_them(camvid, tmp_path):
    (camvid / "train" / f"{FRAMES[0]}.png").write_bytes(b"")
    arguments = ["prepare", "camvid", "--data-dir", str(camvid), "--out", str(tmp_path / "out")]
    assert "cannot be decoded" in _run(*arguments)
    main([*arguments, "--skip-bad-files"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"- `{FRAMES[0]}.png`: cannot be decoded (0 bytes, of no format that is read" in card
    assert str(tmp_path) not in card


@pytest.mark.parametrize(("flags", "private"), [([], True), (["--no-private"], False)])
def test_prepare_pushes_the_finished_folder(camvid, tmp_path, monkeypatch, capsys, flags, private):
    calls = []
    monkeypatch.setattr(hub, "check_can_push_dataset", lambda repo_id: calls.append(("check", repo_id)))

    def push(folder, repo_id, private):
        calls.append(("push", repo_id, private, (folder / "README.md").is_file()))

    monkeypatch.setattr(hub, "push_dataset", push)
    main(["prepare", "camvid", "--data-dir", str(camvid), "--out", str(tmp_path / "out"), "--push", "me/it", *flags])
    assert calls == [("check", "me/it"), ("push", "me/it", private, True)]
    assert "load_dataset('me/it')" in capsys.readouterr().out


def test_prepare_asks_the_hub_before_it_reads_anything(camvid, tmp_path):
    (camvid / "train" / f"{FRAMES[0]}.png").write_bytes(b"")
    message = _run("prepare", "camvid", "--data-dir", camvid, "--out", tmp_path / "out", "--push", "it")
    assert "organisation/name, found 'it'" in message
    assert not (tmp_path / "out").exists()


def test_prepare_keeps_an_existing_folder(camvid, tmp_path):
    assert "is not empty" in _run("prepare", "camvid", "--data-dir", camvid, "--out", tmp_path)


def test_check_data_prints_tables_and_draws(camvid, tmp_path, capsys):
    sheet = tmp_path / "new" / "sheet.png"
    assert _run("check-data", "camvid", "--data-dir", camvid, "--contact-sheet", sheet) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["train", "2", "2", "367", "8×6", "8.33", "11", "of", "11"] in lines
    assert ["0", "Sky", "0", "8.33", "8.33", "8.33", "24", "6"] in lines
    assert ["11", "Void", "ignored", "8.33", "8.33", "8.33", "24", "6"] in lines
    assert ["images", "checked:", "6,", "errors:", "0"] in lines
    assert ["contact", "sheet:", str(sheet)] in lines
    assert Image.open(sheet).width > 1000


def test_check_data_lists_every_error_and_exits_with_1(camvid, tmp_path, capsys):
    (camvid / "train" / f"{FRAMES[0]}.png").write_bytes(b"")
    (camvid / "valannot" / f"{FRAMES[1]}.png").unlink()
    assert _run("check-data", "camvid", "--data-dir", camvid, "--contact-sheet", tmp_path / "s.png") == 1
    printed = capsys.readouterr().out
    assert printed.count("error: ") == 2
    assert "images checked: 5, errors: 2" in printed


def test_check_data_sets_ids_found_against_those_expected(camvid, tmp_path, capsys):
    for split in ("train", "val", "test"):
        Image.new("L", (8, 6), 3).save(camvid / f"{split}annot" / f"{FRAMES[0]}.png")
        Image.new("L", (8, 6), 77).save(camvid / f"{split}annot" / f"{FRAMES[1]}.png")
    assert _run("check-data", "camvid", "--data-dir", camvid, "--contact-sheet", tmp_path / "s.png") == 1
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    assert ["3", "Road", "3", "100.00", "100.00", "100.00", "144", "3"] in lines
    assert ["unexpected", "id", "in", "masks", "pixels"] in lines
    assert ["77", "3", "144"] in lines
    assert "expected ids never seen, of classes (10): 0 Sky; 1 Building; 2 Pole; 4 Pavement;" in printed
    assert "expected ids never seen, ignored anyway (1): 11 Void" in printed


def test_check_data_gathers_ids_of_one_class(tmp_path, capsys):
    for kind, picture in (("images", Image.new("RGB", (4, 3))), ("masks", Image.new("L", (4, 3), 7))):
        (tmp_path / kind).mkdir()
        picture.putpixel((0, 0), 8 if kind == "masks" else (0, 0, 0))
        picture.save(tmp_path / kind / "a.png")
    rows = ("raw_id,train_id,name,red,green,blue", "7,1,stem,0,0,1", "8,1,twig,0,0,2", "9,0,root,0,0,3")
    (tmp_path / "classes.csv").write_text("\n".join(rows))
    arguments = ("--id2label", tmp_path / "classes.csv", "--contact-sheet", tmp_path / "s.png")
    assert _run("check-data", tmp_path, *arguments) == 0
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    assert ["7", "stem", "1", "91.67", "11", "1"] in lines
    assert ["8", "twig", "1", "8.33", "1", "1"] in lines
    assert ["1", "stem", "100.00", "12", "1"] in lines
    assert "classes never seen (1): root" in printed


def test_check_data_cuts_a_long_list_of_unexpected_ids(camvid, tmp_path, capsys):
    ids = np.arange(100, 148, dtype=np.uint8).reshape(6, 8)
    Image.fromarray(ids).save(camvid / "trainannot" / f"{FRAMES[0]}.png")
    assert _run("check-data", "camvid", "--data-dir", camvid, "--contact-sheet", tmp_path / "s.png") == 1
    assert "and 28 more unexpected ids" in capsys.readouterr().out


def test_check_data_of_nothing_readable_draws_nothing(camvid, tmp_path, capsys):
    for path in camvid.glob("*annot/*"):
        path.write_bytes(b"")
    assert _run("check-data", "camvid", "--data-dir", camvid, "--contact-sheet", tmp_path / "s.png") == 1
    assert "contact sheet" not in capsys.readouterr().out
    assert not (tmp_path / "s.png").exists()


def test_check_data_of_own_files_names_absent_ids_and_shared_names(tmp_path, capsys):
    for split in ("train", "val"):
        for kind, picture in (("images", Image.new("RGB", (4, 3))), ("masks", Image.new("L", (4, 3), 1))):
            (tmp_path / kind / split).mkdir(parents=True)
            picture.save(tmp_path / kind / split / "a.png")
    (tmp_path / "classes.txt").write_text("leaf\nroot\n")
    arguments = ("--id2label", tmp_path / "classes.txt", "--contact-sheet", tmp_path / "s.png")
    assert _run("check-data", tmp_path, *arguments) == 0
    printed = capsys.readouterr().out
    assert "expected ids never seen, of classes (1): 0 leaf" in printed
    assert "names in more than one split (1), such as a:" in printed


def test_check_data_warns_of_a_class_written_as_255(tmp_path, capsys):
    mask = np.full((3, 4), 255, dtype=np.uint8)
    mask[0] = 0
    for split in ("train", "val"):
        for kind, pixels in (("images", np.zeros((3, 4, 3), dtype=np.uint8)), ("masks", mask)):
            (tmp_path / kind / split).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / kind / split / f"{split}.png")
    (tmp_path / "classes.txt").write_text("background\nobject\n")
    arguments = ("--id2label", tmp_path / "classes.txt", "--contact-sheet", tmp_path / "s.png")
    assert _run("check-data", tmp_path, *arguments) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "WARNING: of 2 classes the masks hold only 0 (background), and 255, which means ignored." in printed
    assert "write the class ids 0..1 into the masks images checked: 2, errors: 0" in printed

    mask[1] = 1
    Image.fromarray(mask).save(tmp_path / "masks" / "val" / "val.png")
    assert _run("check-data", tmp_path, *arguments) == 0
    assert "WARNING" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "neither a folder, nor a list of pairs, nor one of the benchmarks ade20k, camvid"),
        (["camvid"], "camvid needs --data-dir"),
        (["."], "needs --id2label"),
        ([".", "--id2label", "a.txt", "--splits", "train"], "neither --data-dir nor --splits"),
    ],
)
def test_check_data_says_which_option_is_missing(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in _run("check-data", *arguments)


def test_check_data_lists_all_files_of_one_id(camvid, tmp_path, capsys):
    for frame in FRAMES:
        Image.new("RGB", (8, 6)).save(camvid / "train" / f"{frame}.jpg")
    assert _run("check-data", "camvid", "--data-dir", camvid, "--contact-sheet", tmp_path / "s.png") == 1
    printed = capsys.readouterr().out
    for frame in FRAMES:
        assert f"train/{frame}.png: this file and train/{frame}.jpg have the same id" in printed
    assert "images checked: 4, errors: 2" in printed


@pytest.mark.parametrize(
    ("name", "folder", "splits"),
    [
        ("camvid", "CamVid-mini", ["train", "validation", "test"]),
        ("ade20k", "ade20k/ADEChallengeData2016", ["train"]),
        ("coco_stuff", "coco_stuff_164k", ["train"]),
        ("cityscapes", "cityscapes", ["validation"]),
    ],
)
def test_real_data_has_no_errors(shared_dir, tmp_path, name, folder, splits):
    report, is_drawn = check_data(name, tmp_path / "sheet.png", shared_dir / "data" / folder, splits=splits)
    assert (report.errors, is_drawn) == ([], True)
