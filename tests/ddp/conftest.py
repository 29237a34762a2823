"""What tests of several processes share."""

import socket

import pytest


@pytest.fixture
def folder(tmp_path):
    """An empty folder but for the file ``port``, with a free port at which processes can meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(probe.getsockname()[1]))
    return tmp_path
