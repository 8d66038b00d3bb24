from cmdl_hf.data.listing import digest_files, index_by_id, list_files, pair_files, read_stems, unlabelled


def test_stems_come_from_names_and_from_paths(tmp_path):
    list_file = tmp_path / "train.txt"
    list_file.write_text("/SegNet/a_1.png /SegNet/annot/a_1.png\n\nb_2\nc_3.jpg \n", encoding="utf-8-sig")
    assert read_stems(list_file) == ["a_1", "b_2", "c_3"]


def test_files_are_sorted_and_hidden_ones_left_out(tmp_path):
    for name in ("b.PNG", "a.png", "._a.png", "c.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in list_files(tmp_path, (".png",))] == ["a.png", "b.PNG"]


def test_a_missing_folder_has_no_files(tmp_path):
    assert list_files(tmp_path / "nowhere", (".png",)) == []


def test_pairs_and_what_lacks_its_partner(tmp_path):
    images = {name: [tmp_path / f"{name}.jpg"] for name in "ab"}
    masks = {name: [tmp_path / f"{name}.png"] for name in "bc"}
    files = pair_files(images, masks)
    assert [sample.id for sample in files.samples] == ["b"]
    assert (files.images_without_mask, files.masks_without_image) == (images["a"], masks["c"])
    assert not files.is_paired
    assert pair_files(images, masks, ["b"]).is_paired
    assert pair_files(images, masks, ["b", "d"]).missing_ids == ["d"]


def test_files_of_one_id_and_repeated_names_are_collected(tmp_path):
    images = index_by_id(tmp_path / name for name in ("a.jpg", "a.png", "b.jpg", "c.jpg", "d.jpg"))
    masks = index_by_id(tmp_path / name for name in ("a.bmp", "b.bmp", "b.png", "c.bmp", "d.bmp"))
    files = pair_files(images, masks, ["a", "b", "c", "c", "d"])
    assert [sample.id for sample in files.samples] == ["d"]
    assert files.is_paired
    assert [(error.path.name, error.args[1]) for error in files.errors()] == [
        ("a.png", f"this file and {tmp_path.name}/a.jpg have the same id 'a'"),
        ("b.png", f"this file and {tmp_path.name}/b.bmp have the same id 'b'"),
        ("c", "the split's list names it 2 times"),
    ]


def test_unlabelled_images_of_one_id_are_collected(tmp_path):
    files = unlabelled(index_by_id(tmp_path / name for name in ("a.jpg", "a.png", "b.jpg")))
    assert [sample.id for sample in files.samples] == ["b"]
    assert [error.path.name for error in files.errors()] == ["a.png"]


def test_the_digest_follows_names_sizes_and_times(tmp_path):
    image, mask = tmp_path / "a.jpg", tmp_path / "a.png"
    image.write_bytes(b"1")
    mask.write_bytes(b"1")
    files = {"train": pair_files({"a": [image]}, {"a": [mask]})}
    first = digest_files(files)
    assert digest_files(files) == first
    assert digest_files({"validation": files["train"]}) != first
    mask.write_bytes(b"12")
    assert digest_files(files) != first
