import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from process_groups import join_group, run_processes

from cmdl_hf import CMDLMemoryBank, sinkhorn
from cmdl_hf.models.assignment_cmdl import assign_pixels


def literal_sinkhorn(similarity, epsilon=0.05, num_iterations=3):
    """The plan of one class, as the paper's text reads."""
    plan = (similarity / epsilon).exp()
    plan = plan / plan.sum()
    num_pixels, num_distributions = plan.shape
    for _ in range(num_iterations):
        plan = plan / plan.sum(dim=0, keepdim=True) / num_distributions
        plan = plan / plan.sum(dim=1, keepdim=True) / num_pixels
    return plan * num_pixels


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


def nearest_class(similarity):
    return similarity.amax(dim=2).argmax(dim=1)


def test_sinkhorn_of_all_classes_equals_the_loop_over_classes():
    labels = torch.randint(0, 6, (500,))
    labels[labels == 3] = 5  # class 3 absent; 5 leaves pixels out
    similarity = torch.rand(500, 4) * 2 - 1
    plan = sinkhorn(similarity, labels, num_labels=5)
    for label in (0, 1, 2, 4):
        expected = literal_sinkhorn(similarity[labels == label])
        torch.testing.assert_close(plan[labels == label], expected, atol=1e-6, rtol=1e-5)


def test_sinkhorn_rows_sum_to_one_and_columns_even_out():
    plan = sinkhorn(torch.rand(400, 4) * 2 - 1, num_iterations=50)
    torch.testing.assert_close(plan.sum(dim=1), torch.ones(400))
    torch.testing.assert_close(plan.sum(dim=0), torch.full((4,), 100.0), rtol=1e-3, atol=0)


@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_sinkhorn_stands_the_ends_of_the_cosine_at_the_smallest_epsilon(value):
    plan = sinkhorn(torch.full((10, 3), value), epsilon=0.025)
    torch.testing.assert_close(plan, torch.full((10, 3), 1 / 3))


def test_similarity_is_the_cosine_to_prototypes_as_stored():
    bank = CMDLMemoryBank(num_labels=3, num_distributions=2, hidden_size=8)
    bank.prototypes.mul_(0.3)
    embeddings = unit(20, 8)
    expected = torch.einsum("nc,kmc->nkm", embeddings, F.normalize(bank.prototypes, dim=-1))
    torch.testing.assert_close(bank.similarity(embeddings), expected)


def test_prototypes_start_and_stay_at_unit_length():
    bank = CMDLMemoryBank(num_labels=4, num_distributions=3, hidden_size=16)
    for _ in range(3):
        torch.testing.assert_close(bank.prototypes.norm(dim=-1), torch.ones(4, 3))
        embeddings = unit(200, 16)
        labels = torch.randint(0, 4, (200,))
        bank.update(embeddings, bank.similarity(embeddings), labels, torch.ones(200, dtype=torch.bool))


def test_update_moves_each_prototype_to_the_mean_of_its_pixels():
    bank = CMDLMemoryBank(num_labels=2, num_distributions=2, hidden_size=8, momentum=0.9, momentum_warmup=0)
    before = bank.read()
    embeddings, labels = unit(60, 8), torch.arange(60) % 2
    similarity = bank.similarity(embeddings)
    is_correct = torch.rand(60) < 0.7
    bank.update(embeddings, similarity, labels, is_correct)
    for label in range(2):
        mine = labels == label
        ids = literal_sinkhorn(similarity[mine, label]).argmax(dim=1)
        for m in range(2):
            mean = F.normalize(embeddings[mine][(ids == m) & is_correct[mine]].sum(dim=0), dim=0)
            expected = F.normalize(0.9 * before[label, m] + 0.1 * mean, dim=0)
            torch.testing.assert_close(bank.prototypes[label, m], expected)


def test_a_distribution_without_pixels_stays():
    bank = CMDLMemoryBank(num_labels=3, num_distributions=2, hidden_size=8)
    before = bank.read()
    embeddings = unit(40, 8)
    labels = torch.zeros(40, dtype=torch.int64)
    bank.update(embeddings, bank.similarity(embeddings), labels, torch.ones(40, dtype=torch.bool))
    torch.testing.assert_close(bank.prototypes[1:], before[1:])
    assert not torch.allclose(bank.prototypes[0], before[0])
    assert bank.num_updates.tolist() == [[1, 1], [0, 0], [0, 0]]


def test_misclassified_pixels_move_nothing():
    bank = CMDLMemoryBank(num_labels=3, num_distributions=2, hidden_size=8, use_fallback=False)
    before = bank.read()
    embeddings, labels = unit(40, 8), torch.randint(0, 3, (40,))
    bank.update(embeddings, bank.similarity(embeddings), labels, torch.zeros(40, dtype=torch.bool))
    torch.testing.assert_close(bank.prototypes, before)


def test_a_class_without_a_correct_pixel_moves_by_all_of_its_pixels():
    filtered, bank, unfiltered = (
        CMDLMemoryBank(num_labels=3, num_distributions=2, hidden_size=8, use_fallback=use)
        for use in (False, True, True)
    )
    for other in (bank, unfiltered):
        other.load_state_dict(filtered.state_dict())
    embeddings, labels = unit(60, 8), torch.arange(60) % 3
    is_correct = (labels == 1) & (torch.rand(60) < 0.5)  # one of three classes has correct pixels, and wrong ones
    assert is_correct.any()
    assert not is_correct[labels == 1].all()
    for each, used in ((filtered, is_correct), (bank, is_correct), (unfiltered, torch.ones_like(is_correct))):
        each.update(embeddings, each.similarity(embeddings), labels, used)
    torch.testing.assert_close(bank.prototypes[1], filtered.prototypes[1])
    torch.testing.assert_close(bank.prototypes[[0, 2]], unfiltered.prototypes[[0, 2]])
    assert filtered.num_updates.sum(dim=1).tolist()[::2] == [0, 0]
    assert bank.num_updates.tolist()[::2] == [[1, 1], [1, 1]]


@pytest.mark.parametrize("ignored", [255, -100])
def test_ignored_and_non_finite_pixels_move_nothing(ignored):
    bank, other = (CMDLMemoryBank(num_labels=3, num_distributions=2, hidden_size=8) for _ in range(2))
    other.load_state_dict(bank.state_dict())
    embeddings, labels = unit(40, 8), torch.randint(0, 3, (40,))
    is_correct = torch.ones(50, dtype=torch.bool)
    bad = torch.cat([embeddings, unit(5, 8), torch.full((5, 8), torch.nan)])
    bad_labels = torch.cat([labels, torch.full((5,), ignored), torch.zeros(5, dtype=torch.int64)])
    bank.update(bad, bank.similarity(bad), bad_labels, is_correct)
    other.update(embeddings, other.similarity(embeddings), labels, is_correct[:40])
    torch.testing.assert_close(bank.prototypes, other.prototypes)


@pytest.mark.parametrize("scale", [1.0, 0.02])
def test_a_batch_without_pixels_changes_nothing_at_all(scale):
    bank = CMDLMemoryBank(num_labels=3, num_distributions=2, hidden_size=8)
    bank.prototypes.mul_(scale)
    before = bank.read()
    labels = torch.full((40,), 255)
    embeddings = unit(40, 8)
    bank.update(embeddings, bank.similarity(embeddings), labels, torch.ones(40, dtype=torch.bool))
    assert torch.equal(bank.prototypes, before)


def test_momentum_warm_up_lets_the_first_pixels_replace_the_random_start():
    bank = CMDLMemoryBank(num_labels=2, num_distributions=1, hidden_size=8, momentum_warmup=10)
    target = unit(1, 8)
    embeddings, labels = target.expand(4, 8), torch.zeros(4, dtype=torch.int64)
    bank.update(embeddings, bank.similarity(embeddings), labels, torch.ones(4, dtype=torch.bool))
    torch.testing.assert_close(bank.prototypes[0], target)

    bank.num_updates.fill_(5)
    before = bank.read()
    other = unit(1, 8)
    bank.update(other.expand(4, 8), bank.similarity(other.expand(4, 8)), labels, torch.ones(4, dtype=torch.bool))
    expected = F.normalize(5 / 15 * before[0] + 10 / 15 * other, dim=-1)
    torch.testing.assert_close(bank.prototypes[0], expected)


def test_momentum_never_exceeds_its_bound():
    bank = CMDLMemoryBank(num_labels=2, num_distributions=1, hidden_size=8, momentum=0.5, momentum_warmup=10)
    bank.num_updates.fill_(10_000)
    before, target = bank.read(), unit(1, 8)
    labels = torch.zeros(4, dtype=torch.int64)
    bank.update(target.expand(4, 8), bank.similarity(target.expand(4, 8)), labels, torch.ones(4, dtype=torch.bool))
    torch.testing.assert_close(bank.prototypes[0], F.normalize(before[0] + target, dim=-1))


def learn_three_modes(assignment, momentum_warmup, num_updates=600):
    """Train nine prototypes on a class with three modes.

    Returns the cosine of every mode to its nearest prototype, and the lowest cosine between two prototypes.
    """
    modes = unit(3, 32)
    bank = CMDLMemoryBank(2, 9, 32, assignment, momentum=0.99, momentum_warmup=momentum_warmup)
    labels, is_correct = torch.zeros(90, dtype=torch.int64), torch.ones(90, dtype=torch.bool)
    for _ in range(num_updates):
        embeddings = F.normalize(modes.repeat(30, 1) + torch.randn(90, 32) * 0.05, dim=-1)
        bank.update(embeddings, bank.similarity(embeddings), labels, is_correct)
    prototypes = bank.prototypes[0]
    return (modes @ prototypes.t()).amax(dim=1), (prototypes @ prototypes.t()).min()


@pytest.mark.parametrize("momentum_warmup", [0, 10])
@pytest.mark.parametrize("assignment", ["argmax", "sample"])
def test_our_assignments_find_the_three_modes_of_a_class(assignment, momentum_warmup):
    nearest, mutual = learn_three_modes(assignment, momentum_warmup)
    assert nearest.min() > 0.97
    assert mutual < 0.5


def test_the_reference_assignment_collapses_to_the_class_mean():
    nearest, mutual = learn_three_modes("reference", momentum_warmup=0)
    assert nearest.min() < 0.8
    assert mutual > 0.9


@pytest.mark.parametrize("assignment", ["argmax", "sample", "reference"])
def test_assignment_gives_every_pixel_a_distribution_of_its_class(assignment):
    bank = CMDLMemoryBank(num_labels=3, num_distributions=4, hidden_size=8, assignment=assignment)
    ids = assign_pixels(torch.rand(100, 4), torch.randint(0, 4, (100,)), bank.num_labels, bank.rule)
    assert ids.shape == (100,)
    assert ids.min() >= 0
    assert ids.max() < 4


def test_sample_follows_the_plan():
    bank = CMDLMemoryBank(num_labels=1, num_distributions=2, hidden_size=8, assignment="sample")
    similarity = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).repeat(500, 1)
    ids = assign_pixels(similarity, torch.zeros(1000, dtype=torch.int64), bank.num_labels, bank.rule)
    assert (ids == torch.tensor([0, 1]).repeat(500)).float().mean() > 0.99


def test_an_unknown_assignment_is_refused():
    with pytest.raises(ValueError, match="assignment must be one of sample, argmax, reference, got 'foo'"):
        CMDLMemoryBank(num_labels=2, assignment="foo")


def test_duplicates_are_the_later_ones_of_their_class():
    bank = CMDLMemoryBank(num_labels=2, num_distributions=4, hidden_size=8)
    axes = torch.eye(8)
    bank.prototypes.copy_(torch.stack([axes[:4], axes[4:]]))
    assert not bank.find_duplicates().any()
    bank.prototypes[0, 2] = F.normalize(axes[0] + 0.1 * axes[5], dim=0) * 0.3
    bank.prototypes[1, 0] = axes[0]  # of another class: no duplicate
    assert bank.find_duplicates().tolist() == [[False, False, True, False], [False] * 4]
    assert not bank.find_duplicates(threshold=0.999).any()


def test_dead_distributions_are_those_left_out_while_another_of_the_class_moved():
    bank = CMDLMemoryBank(num_labels=3, num_distributions=2, hidden_size=8)
    assert not bank.find_dead().any()
    bank.num_updates.copy_(torch.tensor([[3, 0], [0, 0], [2, 1]]))
    assert bank.find_dead().tolist() == [[False, True], [False, False], [False, False]]
    since = bank.num_updates.clone()
    bank.num_updates[2, 1] += 1
    assert bank.find_dead(since).tolist() == [[False, False], [False, False], [True, False]]


def make_pixels():
    generator = torch.Generator().manual_seed(7)
    embeddings = F.normalize(torch.randn(120, 8, generator=generator), dim=-1)
    labels = torch.randint(0, 4, (120,), generator=generator)
    labels[60:] = labels[60:] % 2  # the second process sees no pixel of classes 2 and 3
    is_correct = torch.rand(120, generator=generator) < 0.8
    is_correct[labels == 3] = False
    is_correct[60:][labels[60:] == 1] = False  # correct ones in the first process alone
    return embeddings, labels, is_correct


def update_bank(part, folder):
    torch.manual_seed(1)
    bank = CMDLMemoryBank(num_labels=4, num_distributions=3, hidden_size=8, assignment="argmax")
    embeddings, labels, is_correct = (tensor[part] for tensor in make_pixels())
    for _ in range(3):
        bank.update(embeddings, bank.similarity(embeddings), labels, is_correct)
    torch.save(bank.state_dict(), folder)


def update_in_process_group(rank, num_processes, port, folder):
    join_group(rank, num_processes, port)
    update_bank(slice(60 * rank, 60 * rank + 60), folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_update_the_bank_as_one_does(tmp_path):
    update_bank(slice(None), tmp_path / "one.pt")
    run_processes(update_in_process_group, 2, tmp_path)
    one, *ranks = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("one", "rank0", "rank1"))
    assert one["num_updates"].sum() > 0
    for rank in ranks:
        torch.testing.assert_close(rank["prototypes"], one["prototypes"], atol=1e-6, rtol=0)
        assert torch.equal(rank["num_updates"], one["num_updates"])
    assert torch.equal(ranks[0]["prototypes"], ranks[1]["prototypes"])


def test_a_bank_stays_in_float32_when_its_model_is_cast():
    bank = CMDLMemoryBank(3, 2, 8)
    start = bank.prototypes.clone()
    torch.nn.Sequential(bank).to(torch.bfloat16).half()
    assert torch.equal(bank.prototypes, start)
    assert bank.to("meta").prototypes.device.type == "meta"
