"""The command line: `llmstack`."""

from __future__ import annotations

import sys

__all__ = ["run"]


def run() -> int:
    """Run the command line and return its exit status; says what to install where it is absent."""
    try:
        from .main import main
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich"):
            raise
        sys.stderr.write("error: the command line needs optional packages: pip install 'llmstack[cli]'\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return main()
