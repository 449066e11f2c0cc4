"""Tuning a search by what people said of its hits, and keeping what it ranks by fresh."""

from __future__ import annotations
