import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from process_groups import join_group, run_processes

from cmdl_hf import CMDLMemoryBank
from cmdl_hf.models.clusters_cmdl import cluster_pixels


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


def make_modes(num_modes=3, num_pixels=300):
    """Pixels of classes 0 and 2 around modes of their own; returns the modes of both too."""
    modes = unit(2, num_modes, 32)
    noisy = modes[:, torch.arange(num_pixels) % num_modes] + torch.randn(2, num_pixels, 32) * 0.05
    return F.normalize(noisy, dim=-1).flatten(0, 1), torch.tensor([0, 2]).repeat_interleave(num_pixels), modes


def test_centres_have_unit_length_where_pixels_were_enough_and_are_else_zero():
    two = unit(2, 8)
    embeddings = torch.cat([3 * two, two, unit(40, 8), torch.full((2, 8), torch.nan)])
    labels = torch.tensor([1] * 4 + [2] * 40 + [0] * 2)
    centres, is_found = cluster_pixels(embeddings, labels, num_labels=3, num_distributions=4)
    assert is_found.tolist() == [[False] * 4, [True, True, False, False], [True] * 4]
    torch.testing.assert_close(centres.norm(dim=-1), is_found.float())


@pytest.mark.parametrize("num_distributions", [6, 9])
def test_clusters_find_the_three_modes_of_every_class(num_distributions):
    embeddings, labels, modes = make_modes()
    order = torch.randperm(len(labels))
    bank = CMDLMemoryBank(num_labels=4, num_distributions=num_distributions, hidden_size=32)
    before = bank.read()
    bank.start_from_clusters(embeddings[order], labels[order])
    for class_modes, label in zip(modes, (0, 2), strict=True):
        cosines = class_modes @ bank.prototypes[label].t()
        assert cosines.amax(dim=1).min() > 0.97
        assert cosines.amax(dim=0).min() > 0.8  # no prototype between the modes
    torch.testing.assert_close(bank.prototypes.norm(dim=-1), torch.ones(4, num_distributions))
    torch.testing.assert_close(bank.prototypes[[1, 3]], before[[1, 3]])
    assert bank.num_updates[[0, 2]].eq(90).all()
    assert bank.num_updates[[1, 3]].eq(0).all()


def test_a_start_from_clusters_is_not_thrown_away_by_the_next_batch():
    embeddings, labels, _ = make_modes()
    bank = CMDLMemoryBank(num_labels=4, num_distributions=3, hidden_size=32)
    bank.start_from_clusters(embeddings, labels)
    before = bank.read()
    other, three = unit(3, 32), torch.zeros(3, dtype=torch.int64)
    bank.update(other, bank.similarity(other), three, torch.ones(3, dtype=torch.bool))
    assert (bank.num_updates[0] == 91).any()
    assert (bank.prototypes[0] * before[0]).sum(dim=-1).min() > 0.95


def test_clusters_of_fewer_pixels_than_distributions_leave_the_rest_as_it_was():
    bank = CMDLMemoryBank(num_labels=3, num_distributions=4, hidden_size=8)
    before = bank.read()
    two = unit(2, 8)
    embeddings = torch.cat([two, two, two, unit(5, 8), torch.full((2, 8), torch.nan)])
    labels = torch.tensor([1] * 6 + [255] * 5 + [0, 1])  # class 1 has two different pixels
    bank.start_from_clusters(embeddings, labels)
    assert bank.num_updates.gt(0).sum(dim=1).tolist() == [0, 2, 0]
    torch.testing.assert_close((two @ bank.prototypes[1, :2].t()).amax(dim=1), torch.ones(2))
    torch.testing.assert_close(bank.prototypes[1, 2:], before[1, 2:])
    torch.testing.assert_close(bank.prototypes[[0, 2]], before[[0, 2]])


@pytest.mark.parametrize("num_pixels", [0, 7])
def test_clusters_of_no_pixels_change_nothing(num_pixels):
    bank = CMDLMemoryBank(num_labels=3, num_distributions=4, hidden_size=8)
    before = bank.read()
    bank.start_from_clusters(torch.randn(num_pixels, 8), torch.full((num_pixels,), 255))
    torch.testing.assert_close(bank.prototypes, before)
    assert bank.num_updates.sum() == 0


def test_clusters_repeat_with_the_generator():
    embeddings, labels, _ = make_modes()
    banks = [CMDLMemoryBank(num_labels=4, num_distributions=5, hidden_size=32) for _ in range(3)]
    for bank, seed in zip(banks, (1, 1, 2), strict=True):
        bank.start_from_clusters(embeddings, labels, num_rounds=0, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(banks[0].prototypes[0], banks[1].prototypes[0])
    assert not torch.equal(banks[0].prototypes[0], banks[2].prototypes[0])


@pytest.mark.parametrize(
    ("embeddings", "labels", "message"),
    [
        (torch.randn(5, 7), torch.zeros(5).long(), r"pixel_embeddings must have shape \(pixels, 8\), got \(5, 7\)"),
        (torch.randn(5, 8), torch.zeros(4).long(), r"labels must have shape \(5,\), got \(4,\)"),
    ],
)
def test_clusters_refuse_other_shapes(embeddings, labels, message):
    with pytest.raises(ValueError, match=message):
        CMDLMemoryBank(num_labels=3, num_distributions=4, hidden_size=8).start_from_clusters(embeddings, labels)


def cluster_in_process_group(rank, num_processes, port, folder):
    join_group(rank, num_processes, port)
    torch.manual_seed(5)
    embeddings, labels, modes = make_modes()
    torch.manual_seed(rank)  # the start and the draws of the processes differ
    is_of_first_mode = torch.arange(len(labels)) % 3 == 0
    mine = ~is_of_first_mode if rank else is_of_first_mode
    for name, part in {"parts": mine, "one_is_empty": mine & (rank == 0)}.items():
        bank = CMDLMemoryBank(num_labels=4, num_distributions=6, hidden_size=32)
        bank.start_from_clusters(embeddings[part], labels[part])
        torch.save(bank.state_dict() | {"modes": modes}, folder / f"{name}{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_cluster_the_pixels_of_both(tmp_path):
    run_processes(cluster_in_process_group, 2, tmp_path)
    for name in ("parts", "one_is_empty"):
        first, second = (torch.load(tmp_path / f"{name}{rank}.pt", weights_only=True) for rank in range(2))
        assert torch.equal(first["prototypes"], second["prototypes"]), name  # those of absent classes too
        assert torch.equal(first["num_updates"], second["num_updates"])
        cosines = first["modes"] @ first["prototypes"][[0, 2]].transpose(1, 2)  # (2, modes, M)
        num_modes = 3 if name == "parts" else 1  # the first process alone has seen the first mode only
        assert cosines.amax(dim=2)[:, :num_modes].min() > 0.97, name
