"""How the findings of `hubdist doctor` look: a table by subject, with what to do below each fault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from hubdist.cli.output import Table
from hubdist.cli.records import to_json
from hubdist.health.finding import Finding, Level

if TYPE_CHECKING:
    from rich.table import Table as RichTable

_COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
_SUBJECTS = {
    "ray": "Ray",
    "versions": "Versions",
    "limits": "Limits",
    "clock": "Clocks",
    "store": "Stores",
    "ports": "Ports between nodes",
    "origin": "Origins",
    "shared": "Shared cache",
}
_MAX_OK_ROWS = 10
_NODE_WIDTH = 24


@dataclass(frozen=True)
class FindingsTable(Table):
    """A table of findings, grouped by subject.

    Attributes:
        findings: The findings; those of one subject stand together.
    """

    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    findings: Sequence[Finding] = field(default=())

    def rich(self) -> RichTable:
        """The table as rich draws it: for each subject a heading, and a table whose columns stand below each other."""
        from rich.table import Table as RichTable
        from rich.text import Text

        whole = RichTable.grid()
        groups = {name: _shortened(list(group)) for name, group in groupby(self.findings, lambda each: each.subject)}
        widths = [len(finding.node) for group in groups.values() for finding in group]
        for name, group in groups.items():
            table = RichTable(box=None, pad_edge=False, show_header=False)
            table.add_column(no_wrap=True)
            table.add_column(overflow="fold", width=min(_NODE_WIDTH, max(widths)))
            table.add_column(overflow="fold")
            for finding in group:
                level = Text(f"{finding.level:>6}", style=_COLOURS[finding.level])
                table.add_row(level, Text(finding.node), Text(finding.found))
                if finding.mend is not None:
                    mend = RichTable.grid(padding=(0, 1))  # lines that are wrapped begin behind the arrow
                    mend.add_row(Text("→", style="cyan"), Text(finding.mend, style="cyan", overflow="fold"))
                    table.add_row("", "", mend)
            whole.add_row(Text(_SUBJECTS[name], style="bold"))
            whole.add_row(table)
        return whole


def shown(findings: Sequence[Finding]) -> list[str | Table]:
    """A table of findings, and a line that counts them."""
    counts = Counter(finding.level for finding in findings)
    warnings, failures = counts[Level.WARN], counts[Level.FAIL]
    last = (
        f"{counts[Level.OK]} ok, {warnings} warning{'s' * (warnings != 1)}, {failures} failure{'s' * (failures != 1)}"
    )
    return [FindingsTable(findings=_by_subject(findings)), "", last]


def to_record(findings: Sequence[Finding]) -> dict[str, Any]:
    """What `--json` prints."""
    counts = Counter(finding.level for finding in findings)
    return {"counts": {level.value: counts[level] for level in Level}, "findings": to_json(_by_subject(findings))}


def _by_subject(findings: Iterable[Finding]) -> list[Finding]:
    """Findings of one subject together, and of these those of one check; otherwise in the order in which they came."""
    known = list(findings)
    checks = list(dict.fromkeys(finding.check for finding in known))
    order = list(_SUBJECTS)
    return sorted(known, key=lambda finding: (order.index(finding.subject), checks.index(finding.check)))


def _shortened(findings: Sequence[Finding]) -> list[Finding]:
    """One row for nodes of which the same is true; and of many nodes that are well, not all."""
    nodes: dict[tuple[str, Level, str, str | None], list[str]] = {}
    for finding in findings:
        nodes.setdefault((finding.check, finding.level, finding.found, finding.mend), []).append(finding.node)
    rows, well, left = [], 0, 0
    for (check, level, found, mend), names in nodes.items():
        if level is Level.OK:
            well += 1
            if well > _MAX_OK_ROWS:
                left += len(names)
                continue
        rows.append(Finding(check, level, names[0] if len(names) == 1 else f"{len(names)} nodes", found, mend))
    if left:
        rows.append(Finding(findings[0].check, Level.OK, f"{left} more", "--json prints all"))
    return rows
