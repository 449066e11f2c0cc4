"""Peers, each in an environment of its own, beside llmstack on the same server, corpus, vectors and queries."""

from __future__ import annotations
