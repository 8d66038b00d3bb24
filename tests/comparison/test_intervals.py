"""Intervals over images and over seeds."""

import math

import numpy as np
import pytest

from cmdl_hf.comparison import Interval, image_interval, mean_ious, resample, seed_interval
from cmdl_hf.comparison.intervals import find_block_size, t_quantile


def test_resampled_scores_are_those_of_the_images_drawn():
    generator = np.random.default_rng(0)
    union = generator.integers(1, 50, (7, 4))
    counts = np.stack([generator.integers(0, union + 1), union], axis=1)
    counts[:, :, 3] = 0  # a class that does not occur
    drawn = [0, 0, 3, 6]
    weights = np.bincount(drawn, minlength=7)[None]
    sums = sum(counts[image] for image in drawn)
    assert mean_ious(counts, weights)[0] == pytest.approx(np.mean(sums[0, :3] / sums[1, :3]))


def test_a_group_that_is_better_on_every_image_is_better_in_every_resample():
    generator = np.random.default_rng(0)
    union = np.full((20, 3), 100)
    first, second = (
        np.stack([generator.integers(*range_, (20, 3)), union], axis=1) for range_ in ((60, 70), (40, 50))
    )
    difference, low, high, share = image_interval([first], [second])
    assert 0.1 < low < difference < high < 0.3
    assert share == 1.0


def test_neighbours_that_say_the_same_do_not_narrow_the_interval():
    generator = np.random.default_rng(0)
    union = np.full((200, 3), 1000)
    first, second = (
        np.stack([generator.integers(400, 600, (20, 3)).repeat(10, axis=0), union], axis=1) for _ in range(2)
    )
    _, low, high, _ = image_interval([first], [second])
    _, single_low, single_high, _ = image_interval([first], [second], block_size=1)
    assert high - low > 2 * (single_high - single_low)


def test_the_draws_of_two_groups_are_pairs():
    counts = np.stack([np.arange(60).reshape(20, 3), np.full((20, 3), 60)], axis=1)
    assert np.array_equal(resample([counts]), resample([counts, counts]))
    assert image_interval([counts], [counts]) == (0.0, 0.0, 0.0, 0.0)


def test_few_images_are_drawn_in_small_blocks():
    assert [find_block_size(number) for number in (1, 4, 50, 99, 100, 2000)] == [1, 1, 5, 9, 10, 10]


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (2, 4.3027), (2.5, 3.5747), (4, 2.7764), (30, 2.0423), (1000, 1.9623)]
)
def test_quantiles_are_students(freedom, quantile):
    assert t_quantile(freedom) == pytest.approx(quantile, abs=2e-3)
    stats = pytest.importorskip("scipy.stats")
    assert t_quantile(freedom, 0.9) == pytest.approx(stats.t.ppf(0.95, freedom), rel=1e-4)


def test_the_interval_over_seeds_is_welchs():
    stats = pytest.importorskip("scipy.stats")
    first, second = [0.52, 0.535, 0.53], [0.51, 0.515]
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    found = seed_interval(first, second)
    assert found[:3] == pytest.approx((np.mean(first) - np.mean(second), expected.low, expected.high), rel=1e-3)
    assert math.isnan(Interval(0.0, 0.0, 0.0).share_above)


@pytest.mark.parametrize(("first", "second"), [([0.5], [0.4, 0.5]), ([0.5, 0.5], [0.4, 0.4])])
def test_one_seed_or_equal_seeds_have_no_interval(first, second):
    assert seed_interval(first, second) is None
