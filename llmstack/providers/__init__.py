"""What calls a model outside: blocking calls in threads, litellm, and what their errors may say."""

from __future__ import annotations
