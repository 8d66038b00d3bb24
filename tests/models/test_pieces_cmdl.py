import pytest
import torch

from cmdl_hf.models.losses_cmdl import compare_with_distributions
from cmdl_hf.models.pieces_cmdl import divide, takes_large_pieces


@pytest.mark.parametrize(("length", "num_pieces"), [(10, 3), (7, 7), (3, 5), (1, 1), (0, 4), (512, 5)])
def test_pieces_cover_all_indices_once(length, num_pieces):
    pieces = divide(length, num_pieces)
    assert len(pieces) == max(1, min(length, num_pieces))
    assert [i for piece in pieces for i in range(length)[piece]] == list(range(length))
    assert len({piece.stop - piece.start for piece in pieces}) <= 2


def test_only_the_cpu_takes_small_pieces():
    assert not takes_large_pieces(torch.device("cpu"))
    assert all(takes_large_pieces(torch.device(name)) for name in ("cuda", "mps", "xpu"))


def test_comparison_runs_in_one_part_on_an_accelerator(monkeypatch):
    calls = []
    monkeypatch.setattr("cmdl_hf.models.losses_cmdl.divide", lambda *args: calls.append(args) or divide(*args))
    for device in ("cpu", "meta"):
        embeddings, directions = torch.empty(32_768, 16, device=device), torch.empty(3, 150, 16, device=device)
        compare_with_distributions(embeddings, directions, torch.zeros(32_768, dtype=torch.int64, device=device))
    assert calls == [(32_768, 15), (32_768, 1)]
