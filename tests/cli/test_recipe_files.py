import pytest
from cyclopts.exceptions import CoercionError

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
