"""`llmstack doctor`: what is wrong, and the way out."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from rich.table import Table
from rich.text import Text

from ..errors import LLMStackError
from .diagnosis import Finding, examine, failure, local_findings
from .exits import FAILED, OK
from .invocation import Invocation, verb
from .output import Answer, counted, printable

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red", "skipped": "dim"}


def register(app: typer.Typer) -> None:
    """Add the verb."""
    verb(app, "doctor")(doctor)


async def doctor(call: Invocation) -> Answer:
    """Examine connection, versions, extension, migrations, pool, pending work, spaces and privileges.

    Each problem comes with a way out; status 1 if there is one. Changes nothing.
    """
    findings = await _findings(call)
    problems = sum(finding.status == "problem" for finding in findings)
    return Answer(
        {"healthy": not problems, "findings": findings}, _shown(findings, problems), FAILED if problems else OK
    )


async def _findings(call: Invocation) -> list[Finding]:
    found = local_findings(call)
    try:
        async with call.server_url() as url:
            found.extend(await examine(call, url))
    except LLMStackError as error:
        found.append(failure("connection", error))
    return found


def _shown(findings: Sequence[Finding], problems: int) -> list[Table | Text]:
    grid = Table.grid(padding=(0, 2))
    for column in ("status", "name", "detail"):
        grid.add_column(column, overflow="fold")
    for finding in findings:
        detail = Text(printable(finding.detail))
        if finding.way_out:
            detail.append(f"\n-> {printable(finding.way_out)}", style="cyan")
        grid.add_row(Text(finding.status, style=_STYLES[finding.status]), Text(finding.name, style="bold"), detail)
    return [grid, Text(f"\n{counted(problems, 'problem') if problems else 'no problems'} found", style="bold")]
