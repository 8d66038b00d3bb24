"""One fact after another, and how they are printed."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..escaping import one_line


@dataclass(frozen=True)
class Finding:
    """A fact about this machine or a model.

    Args:
        topic (`str`): Heading under which it stands.
        name (`str`): What was looked at.
        text (`str`): What was found, with the cure if it is broken.
        is_broken (`bool`): Whether it must be mended. What is only missing is not broken.
    """

    topic: str
    name: str
    text: str
    is_broken: bool = False


def format_findings(findings: Iterable[Finding]) -> str:
    """Format findings under their headings. Those that are broken are marked."""
    lines: list[str] = []
    topic = None
    for finding in findings:
        if finding.topic != topic:
            topic = finding.topic
            lines += ["", topic] if lines else [topic]
        mark = "BROKEN: " if finding.is_broken else ""
        lines.append(f"  {one_line(finding.name):<18} {mark}{one_line(finding.text)}")
    return "\n".join(lines)


def format_size(num_bytes: float) -> str:
    """Format a number of bytes, such as `1.4 GB`."""
    for unit in ("bytes", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} GB"
