import math

import pytest
import torch
import torch.nn.functional as F

from cmdl_hf import CMDLMemoryBank
from cmdl_hf.explore.layout import class_similarity, find_originals, lay_out, most_similar_classes, order_classes
from cmdl_hf.explore.statistics import NUM_BINS, DistributionStatistics

K, M, C = 4, 3, 8
GRID = (5, 7)


def make_images(count=6, num_labels=K - 1):
    """Embeddings, similarities and labels of random images; the last class never occurs, some labels are void."""
    prototypes = F.normalize(torch.randn(K, M, C), dim=-1)
    images = []
    for _ in range(count):
        embeddings = F.normalize(torch.randn(GRID[0] * GRID[1], C), dim=-1)
        similarity = torch.einsum("nc,kmc->nkm", embeddings, prototypes)
        labels = torch.randint(0, num_labels, (len(embeddings),))
        labels[torch.rand(len(labels)) < 0.2] = 255
        images.append((embeddings, similarity, labels))
    return images


def gather(images, **settings):
    statistics = DistributionStatistics(K, M, **settings)
    scores = [statistics.update(*image, GRID, index) for index, image in enumerate(images)]
    return statistics, torch.stack(scores)


def brute_force(images):
    """Go through all pixels one by one."""
    belonging = {(k, m): [] for k in range(K) for m in range(M)}
    nearest = {key: [] for key in belonging}
    for index, (_, similarity, labels) in enumerate(images):
        for pixel, label in enumerate(labels.tolist()):
            if label == 255:
                continue
            own = similarity[pixel, label].tolist()
            m = max(range(M), key=own.__getitem__)
            belonging[label, m].append((own[m], index, pixel))
            values = {(k, n): float(similarity[pixel, k, n]) for k in range(K) for n in range(M)}
            nearest[max(values, key=values.__getitem__)].append(label)
    return belonging, nearest


def test_figures_are_those_of_going_through_all_pixels_one_by_one():
    images = make_images()
    statistics, _ = gather(images)
    belonging, nearest = brute_force(images)
    for (k, m), pixels in belonging.items():
        of_class = sum(len(belonging[k, n]) for n in range(M))
        assert int(statistics.num_pixels[k, m]) == len(pixels)
        assert int(statistics.num_images[k, m]) == len({index for _, index, _ in pixels})
        assert [int(count) for count in statistics.num_nearest[k, m]] == [nearest[k, m].count(j) for j in range(K)]
        if of_class:
            assert float(statistics.share[k, m]) == pytest.approx(len(pixels) / of_class)
            mean = sum(value for value, _, _ in pixels) / len(pixels)
            assert float(statistics.mean_similarity[k, m]) == pytest.approx(mean, rel=1e-5)
        else:
            assert math.isnan(statistics.share[k, m])
        if nearest[k, m]:
            assert float(statistics.purity[k, m]) == pytest.approx(nearest[k, m].count(k) / len(nearest[k, m]))
    for k in range(K - 1):
        own = sum(nearest[k, m].count(k) for m in range(M))
        of_class = sum(len(belonging[k, m]) for m in range(M))
        assert float(statistics.class_recall[k]) == pytest.approx(own / of_class)
        shares = [len(belonging[k, m]) / of_class for m in range(M)]
        assert float(statistics.num_used[k]) == pytest.approx(math.exp(-sum(s * math.log(s) for s in shares if s)))


def test_examples_are_the_most_similar_pixels_one_of_an_image():
    images = make_images(9)
    statistics, _ = gather(images, num_examples=3)
    belonging, _ = brute_force(images)
    for (k, m), pixels in belonging.items():
        best = {index: max(pixel for pixel in pixels if pixel[1] == index) for _, index, _ in pixels}
        expected = sorted(best.values(), reverse=True)[:3]
        found = statistics.examples[k][m]
        assert [(cell.image, cell.row * GRID[1] + cell.column) for cell in found] == [
            (index, pixel) for _, index, pixel in expected
        ]
        assert [cell.similarity for cell in found] == pytest.approx([value for value, _, _ in expected])
        assert all(cell.grid == GRID for cell in found)


def test_outliers_are_one_minus_the_best_similarity_of_all_pixels_void_too():
    images = make_images()
    statistics, scores = gather(images)
    expected = torch.stack([1 - similarity.flatten(1).amax(dim=1) for _, similarity, _ in images])
    assert torch.allclose(scores, expected)
    assert int(statistics.outlier_histogram.sum()) == expected.numel()
    for share in (0.05, 0.5, 0.95):
        assert statistics.outlier_quantile(share) == pytest.approx(float(expected.quantile(share)), abs=3 / NUM_BINS)


def test_the_sample_is_balanced_and_holds_pixels_of_the_stream():
    images = make_images(6, num_labels=2)
    images[0][2][:3] = 2  # a rare class
    statistics, _ = gather(images, num_sampled=10)
    sample = statistics.sample
    assert sample.labels.bincount(minlength=K).tolist() == [10, 10, 3, 0]
    rows = {tuple(row): int(label) for image in images for row, label in zip(image[0].tolist(), image[2], strict=True)}
    assert [rows[tuple(row)] for row in sample.pixel_embeddings.tolist()] == sample.labels.tolist()


def test_every_pixel_is_as_likely_to_be_sampled():
    counts = torch.zeros(4, dtype=torch.int64)
    labels = torch.zeros(35, dtype=torch.int64)
    for seed in range(60):
        statistics = DistributionStatistics(K, M, num_sampled=10, seed=seed)
        for index in range(4):
            statistics.update(torch.full((35, C), float(index)), torch.zeros(35, K, M), labels, GRID, index)
        counts += statistics.sample.pixel_embeddings[:, 0].long().bincount(minlength=4)
    assert counts.sum() == 600
    assert (counts - 150).abs().max() < 43  # four standard deviations


def test_memory_does_not_grow_with_the_stream():
    images = make_images(30)

    def size(count):
        statistics, _ = gather(images[:count], num_examples=2, num_sampled=5)
        return sum(value.numel() for value in vars(statistics).values() if isinstance(value, torch.Tensor))

    assert size(30) == size(10)


def test_similarities_that_are_not_finite_are_refused():
    ((embeddings, similarity, labels),) = make_images(1)
    similarity[3, 1, 2] = math.nan
    with pytest.raises(ValueError, match="must be finite, found nan or inf in image 7"):
        DistributionStatistics(K, M).update(embeddings, similarity, labels, GRID, 7)


def test_originals_of_duplicates_are_earlier_distributions_of_the_class():
    bank = CMDLMemoryBank(K, M, C)
    bank.prototypes[1, 2] = 2 * bank.prototypes[1, 0] + 0.01
    found = find_originals(bank.prototypes, bank.find_duplicates())
    assert list(found) == [(1, 2)]
    original, cosine = found[1, 2]
    assert original == 0
    assert cosine == pytest.approx(float(F.cosine_similarity(*bank.prototypes[1, [0, 2]], dim=0)))


def test_class_similarity_and_an_order_in_which_similar_classes_are_neighbours():
    directions = F.normalize(torch.randn(2, 1, C), dim=-1)
    prototypes = directions[[0, 1, 0, 1]] + 0.05 * torch.randn(4, M, C)
    similarity = class_similarity(prototypes)
    means = F.normalize(prototypes, dim=-1).mean(dim=1)
    assert similarity[0, 3] == pytest.approx(float(F.cosine_similarity(means[0], means[3], dim=0)), abs=1e-6)
    order = order_classes(similarity)
    assert sorted(order) == [0, 1, 2, 3]
    assert {order[0] % 2, order[1] % 2} in ({0}, {1})
    assert {pair[:2] for pair in most_similar_classes(similarity, 2)} == {(0, 2), (1, 3)}
    assert order_classes(similarity[:2, :2]) == [0, 1]


@pytest.mark.parametrize("num_pixels", [1, 5, 60])
def test_layout_keeps_groups_together_and_in_the_unit_square(num_pixels):
    prototypes = torch.randn(2, 1, C)
    embeddings = F.normalize(prototypes[0] + 0.01 * torch.randn(num_pixels, C), dim=-1)
    points, stars = lay_out(embeddings, prototypes)
    assert points.shape == (num_pixels, 2)
    assert stars.shape == (2, 1, 2)
    assert min(points.min(), stars.min()) >= 0
    assert max(points.max(), stars.max()) <= 1
