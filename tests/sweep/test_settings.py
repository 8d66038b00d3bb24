"""From `--set` and `--seeds` to the flags of every combination."""

import pytest

from cmdl_hf.cli.train import parse_recipe
from cmdl_hf.sweep import combine, parse_seeds, parse_settings


def test_every_combination_has_the_settings_as_a_recipe_reads_them():
    texts = [
        "learning_rate=0.01,2e-2",
        "model_options.num_distributions=1,9",
        "crop_size=[96,128],[64, 64]",
        "flip=true,false",
        "output-stride=none",
    ]
    combinations = combine(parse_settings(texts), parse_seeds("0,1,2"))
    assert len(combinations) == 2 * 2 * 2 * 2 * 3
    args = [parse_recipe(["synthetic", *flags]) for flags in combinations]
    found = {
        (each.learning_rate, str(each.model_options), each.crop_size, each.use_flip, each.output_stride, each.seed)
        for each in args
    }
    assert len(found) == len(args)
    assert found == {
        (rate, f"{{'num_distributions': '{number}'}}", size, flip, None, seed)
        for rate in (0.01, 0.02)
        for number in (1, 9)
        for size in ((96, 128), (64, 64))
        for flip in (True, False)
        for seed in (0, 1, 2)
    }
    assert [each.seed for each in args[:3]] == [0, 1, 2]


def test_without_settings_the_seeds_alone_are_swept():
    assert combine(parse_settings([]), parse_seeds("3,5")) == [["--seed=3"], ["--seed=5"]]


def test_commas_in_brackets_and_quotes_belong_to_a_value():
    settings = parse_settings(["model_options.aspp_dilations=[1,2],[3,4]", "transform='a,b',c"])
    assert settings == {"model_options.aspp_dilations": ["[1,2]", "[3,4]"], "transform": ["'a,b'", "c"]}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["learning_rate"], "must be KEY=VALUE,VALUE, such as --set learning_rate=0.01,0.02"),
        (["=3"], "must be KEY=VALUE,VALUE"),
        (["lerning_rate=1"], "no key lerning_rate; did you mean learning_rate"),
        (["use_flip=true"], "did you mean flip"),
        (["output_dir=x"], "no key output_dir"),
        (["learning_rate.x=1"], "no key learning_rate.x"),
        (["seed=1,2"], "give the seeds with --seeds"),
        (["model_options=3"], "name one of its options, such as --set model_options.num_distributions=1,9"),
        (["power=1", "power=2"], "given twice; put all its values into one"),
        (["power=1,,2"], "empty value"),
        (["power="], "empty value"),
        (["power=1,2,1"], "value twice"),
    ],
)
def test_what_is_no_setting_is_one_message_with_its_cure(texts, message):
    with pytest.raises(ValueError, match=message):
        parse_settings(texts)


@pytest.mark.parametrize("text", ["", "a", "0,,1", "0,0", "-1", "1.5"])
def test_what_is_no_seed_is_refused(text):
    with pytest.raises(ValueError, match="such as 0,1,2, found"):
        parse_seeds(text)


def test_a_list_that_does_not_end_is_refused():
    with pytest.raises(ValueError, match=r"write a list such as \[96,128\]"):
        combine({"crop_size": ["[96,128"]}, [0])
