import pickle
from itertools import chain

import pytest
import torch
from torch.utils.data import DataLoader

from cmdl_hf.data import StreamSampler, TrainingStream, TrainTransform, load_synthetic


@pytest.fixture(scope="module")
def scenes():
    return load_synthetic(num_train=5, num_validation=1, num_test=1, size=(48, 64), num_labels=4)["train"]


@pytest.fixture
def stream(scenes):
    return TrainingStream(scenes.with_transform(TrainTransform((32, 32))), seed=3)


def test_every_epoch_has_every_sample_once_in_an_order_of_its_own(stream):
    epochs = [[stream.index(place) for place in range(5 * epoch, 5 * epoch + 5)] for epoch in range(6)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 3
    assert [TrainingStream(stream.dataset, seed=4).index(place) for place in range(30)] != [*chain(*epochs)]


def test_a_place_always_gives_the_same_sample_and_the_process_keeps_its_randomness(stream):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = stream[7]
    assert torch.equal(torch.rand(3), expected)
    again = pickle.loads(pickle.dumps(stream))[7]
    assert torch.equal(first["pixel_values"], again["pixel_values"])
    assert torch.equal(first["labels"], again["labels"])
    # Place 12 may show the same scene an epoch later, but never the same crop of it.
    assert not any(torch.equal(first["pixel_values"], stream[place]["pixel_values"]) for place in range(7))


def test_samples_are_named(stream, scenes):
    assert stream.sample_id(6) == scenes["id"][stream.index(6)]
    assert TrainingStream(scenes.remove_columns("id")).sample_id(0).isdigit()


@pytest.mark.parametrize(("num_passes", "num_processes"), [(1, 1), (3, 1), (1, 2), (2, 3)])
def test_processes_and_passes_share_the_batch_of_every_step(num_passes, num_processes):
    images_per_pass = 2
    batch_size = images_per_pass * num_passes * num_processes
    samplers = [
        iter(StreamSampler(4, images_per_pass, num_passes, process, num_processes)) for process in range(num_processes)
    ]
    for step in (4, 5):
        places = [place for _ in range(num_passes) for sampler in samplers for place in next(sampler)]
        assert sorted(places) == list(range(step * batch_size, (step + 1) * batch_size))


def test_workers_read_what_the_process_itself_would(stream):
    def first_batches(num_workers):
        loader = DataLoader(
            stream, batch_sampler=StreamSampler(1, 2), num_workers=num_workers, generator=torch.Generator()
        )
        batches = iter(loader)
        return [next(batches)["pixel_values"] for _ in range(3)]

    assert all(map(torch.equal, first_batches(0), first_batches(2)))
