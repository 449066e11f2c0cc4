from __future__ import annotations

from llmstack.db.migrate import run_environment

run_environment()
