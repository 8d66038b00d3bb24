import pytest
from cyclopts.exceptions import CoercionError
from PIL import Image

from cmdl_hf.cli import main
from cmdl_hf.cli.train import parse_recipe


@pytest.fixture
def write(tmp_path):
    def write(text):
        file = tmp_path / "recipe.yaml"
        file.write_text(text)
        return str(file)

    return write


@pytest.mark.parametrize(
    "text", ["hidden_size: 1.5", "crop_size: [64, 64.5]", "eval_steps: 0.4", "max_steps: 2.5", "resize: [1.5, 64]"]
)
def test_a_fraction_is_not_rounded_to_a_whole_number(write, text):
    with pytest.raises(CoercionError, match=f"{text.partition(':')[0]}.*recipe.yaml: unable to convert .* into int"):
        parse_recipe([write(text)])


def test_nor_as_a_flag_of_any_command(capsys):
    with pytest.raises(SystemExit):
        main(["predict", "model", "image.png", "--batch-size", "1.5"])
    assert 'Invalid value for --batch-size: unable to convert "1.5" into int' in " ".join(
        capsys.readouterr().err.split()
    )


def test_whole_numbers_with_a_point_and_fractions_where_they_belong_are_taken(write):
    args = parse_recipe([write("hidden_size: 16.0\nlearning_rate: 0.5\nscale_range: [0.75, 1.5]")])
    assert (args.hidden_size, args.learning_rate, args.scale_range) == (16, 0.5, (0.75, 1.5))


@pytest.mark.parametrize("text", ["1: 2", "null: 3", "2026-01-01: 3", "backbone_kwargs: {1: 2}", "true: 1"])
def test_a_name_that_is_no_text_is_refused(write, text):
    with pytest.raises(ValueError, match=r"recipe.yaml: a name must be a text, found .*; correct it"):
        parse_recipe([write(text)])


def test_a_name_that_is_given_twice_is_refused(write):
    with pytest.raises(ValueError, match=r"recipe.yaml cannot be read: every name must occur once, found 'seed'"):
        parse_recipe([write("seed: 3\nmax_steps: 1\nseed: 4")])


def test_a_sweep_names_the_key_and_the_recipe_as_the_training_does(write, tmp_path):
    file = write("resize: x")
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", file, "--dry-run", "--output-dir", str(tmp_path / "out")])
    assert f"{file}: [resize] takes 2 values" in str(stopped.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_steps: 0", "max_steps must be at least 1, found 0"),
        ("warmup_steps: 9\nmax_steps: 4", "warmup_steps must be below max_steps=4, found 9"),
        ("learning_rate: 1.0e-5", r"min_learning_rate must lie in \[0, 1e-05\)"),
        ("framework: x", r"there is no context_module \(framework\) 'x'"),
        ("benchmark: x", "there is no benchmark 'x'"),
        pytest.param("model_options: {dropout: 7}", r"dropout must lie in \[0, 1\), got 7", marks=pytest.mark.slow),
        pytest.param(
            "model_options: {hidden_size: 7}",
            "model_options: hidden_size is set by another key",
            marks=pytest.mark.slow,
        ),
        ("plugin: [nowhere.py]", r"there is no plug-in .*nowhere.py"),
        pytest.param(
            "class-weights: nowhere.json", "class_weights must be auto or a JSON file", marks=pytest.mark.slow
        ),
        ("transform: ''", "there is no transform ''"),
    ],
)
def test_a_message_about_a_value_names_the_recipe(write, tmp_path, text, message):
    file = write(text)
    with pytest.raises(SystemExit, match=rf"^cmdl: {file}: {message}") as stopped:
        main(["train", file, "--output-dir", str(tmp_path / "out")])
    assert "\n" not in str(stopped.value)


def test_a_message_about_a_flag_or_another_key_does_not(write, tmp_path):
    for flags, text in ((["--max-steps", "0"], "max_steps: 4"), (["--momentum", "2"], "max_steps: 4\nseed: 2")):
        with pytest.raises(SystemExit) as stopped:
            main(["train", write(text), "--output-dir", str(tmp_path / "out"), *flags])
        assert "recipe.yaml" not in str(stopped.value)


@pytest.mark.parametrize(
    ("option", "name", "content"),
    [
        ("--id2label", "classes.json", '["sky", 3]'),
        ("--id2label", "classes.csv", "id,name\n0,sky\n0,road\n"),
        ("--merge-classes", "merge.csv", "from,to\nnobody,road\n"),
    ],
)
def test_so_do_messages_about_files_of_classes_and_merged_classes(tmp_path, option, name, content):
    for kind, mode in (("images", "RGB"), ("masks", "L")):
        (tmp_path / "data" / kind).mkdir(parents=True)
        Image.new(mode, (40, 30)).save(tmp_path / "data" / kind / "a.png")
    (tmp_path / "right.txt").write_text("sky\nroad")
    (tmp_path / name).write_text(content)
    options = {"--id2label": tmp_path / "right.txt", option: tmp_path / name}
    words = [str(word) for pair in options.items() for word in pair]
    with pytest.raises(SystemExit, match=name):
        main(["check-data", str(tmp_path / "data"), *words, "--contact-sheet", str(tmp_path / "sheet.png")])


def test_so_does_a_message_about_a_list_of_pairs(tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"image": 3, "mask": "a.png"}')
    (tmp_path / "right.txt").write_text("sky\nroad")
    with pytest.raises(SystemExit, match=r"pairs\.jsonl"):
        main(["check-data", str(tmp_path / "pairs.jsonl"), "--id2label", str(tmp_path / "right.txt")])
