"""Conversations: threads, their messages and summaries, and the search over them."""

from __future__ import annotations
