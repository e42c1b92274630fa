"""An in-process client, for tests of apps made with this package: no socket, no server, the real
lifespan.

    from thalamus_lite.testing import Client

    def test_my_model():
        with Client(app) as client:
            answer = client.post("/predict", json={"inputs": [{"text": "hi"}]})
            assert answer.status == 200
            assert answer.json()["outputs"] == [{"length": 2}]

``Client`` is for plain tests and runs the app in a thread of its own; ``AsyncClient`` is the same
for ``async`` tests, and can stream and hang up. Both send the key in ``THALAMUS_API_KEY``; where
that is not set, or blank, they set it to ``TEST_API_KEY`` while the app runs, and send that.
"""

from __future__ import annotations

from thalamus_lite.testing.answers import Event, Response
from thalamus_lite.testing.blocking import Client
from thalamus_lite.testing.client import TEST_API_KEY, TEST_API_KEY_HEADER, AsyncClient
from thalamus_lite.testing.exchange import Hangup, Stream

__all__ = [
    "TEST_API_KEY",
    "TEST_API_KEY_HEADER",
    "AsyncClient",
    "Client",
    "Event",
    "Hangup",
    "Response",
    "Stream",
]
