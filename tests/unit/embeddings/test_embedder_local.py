"""The local embedder: really loaded, and without a network."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys

from llmstack.embeddings import LocalEmbedder, embed_all
from llmstack.settings import Settings

_OFFLINE = """
import asyncio, logging, sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.gethostbyname"):
        # A loop's own pair of sockets has no address family of a network.
        raise SystemExit(f"the network was used: {event} {arguments}")

sys.addaudithook(refuse)
from llmstack.embeddings import LocalEmbedder
vectors = asyncio.run(LocalEmbedder().embed(["leave for parents"]))
print(len(vectors[0]), logging.getLogger().handlers, logging.getLogger().level)
"""


def test_loading_uses_no_network_and_leaves_logging_to_the_application() -> None:
    done = subprocess.run([sys.executable, "-c", _OFFLINE], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("256 [] 30", 0), done.stderr


def _cosine(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True)) / (math.hypot(*left) * math.hypot(*right))


async def test_texts_of_like_meaning_are_near_each_other() -> None:
    leave, parents, engine = await LocalEmbedder().embed(
        ["parental leave policy", "time off for new mothers and fathers", "torque of a diesel engine"]
    )
    assert _cosine(leave, parents) > _cosine(leave, engine)


async def test_concurrent_first_uses_and_batches_give_the_same_vectors() -> None:
    texts = [f"text number {number} about {'bread ' * (number % 7)}" for number in range(100)]
    together = await embed_all(LocalEmbedder(), texts, settings=Settings(embedding_batch_size=16))
    alone = await asyncio.gather(*(LocalEmbedder().embed([text]) for text in texts[:8]))
    for place, (vector,) in enumerate(alone):
        assert _cosine(vector, together[place]) > 0.99999


async def test_a_very_long_text_is_read_at_its_beginning() -> None:
    [long] = await LocalEmbedder().embed(["bread " * 1_000_000])
    [short] = await LocalEmbedder().embed(["bread " * 1_000])
    assert _cosine(long, short) > 0.99
