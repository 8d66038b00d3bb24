"""What attacks need: a victim that must stay as it is, and a way to hear of pipes that keep a reader waiting."""

import signal

import pytest

SECRET = b"-----BEGIN OPENSSH PRIVATE KEY----- not yours"


@pytest.fixture
def victim(tmp_path):
    """A file of somebody else's, outside what is given; it is checked afterwards."""
    path = tmp_path / "home" / "id_rsa"
    path.parent.mkdir()
    path.write_bytes(SECRET)
    yield path
    assert path.read_bytes() == SECRET
    assert [file.name for file in path.parent.iterdir()] == ["id_rsa"]


@pytest.fixture(autouse=True)
def _nothing_waits_for_ever():
    """A pipe that nobody writes to keeps its reader waiting: an error after a while, not a test that hangs."""

    def stop(*_):
        raise TimeoutError("still waiting after 60 s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
