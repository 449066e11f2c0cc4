"""Quality and speed, side by side; run by `nox -s bench`."""

from __future__ import annotations
