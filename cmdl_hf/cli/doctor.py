"""The command `cmdl doctor`."""

import sys

from ..plugins import import_plugins
from .options import Plugins, logging_to_terminal


def doctor(model: str | None = None, /, *, plugin: Plugins = (), trust_remote_code: bool = False) -> None:
    """Say what is installed and works here, and whether a model loads. Paste the output into an issue.

    The output has versions, devices, extras with the commands that install them, the state of your login (never the
    token) and the folders of downloads. The exit status is 1 if something is broken.

    Args:
        model: Folder or Hub name of a model. It is loaded, and segments a small picture.
        trust_remote_code: Run the Python files that come with a model that is not CMDL. Read them first.
    """
    import_plugins(plugin)
    from ..doctor import examine_machine, format_findings

    findings = list(examine_machine())
    print(format_findings(findings), flush=True)
    if model is not None:
        from ..doctor import examine_model

        with logging_to_terminal():
            found = list(examine_model(model, trust_remote_code))
        print(f"\n{format_findings(found)}")
        findings += found
    if broken := [finding.name for finding in findings if finding.is_broken]:
        print(f"\nbroken: {', '.join(broken)}")
    sys.exit(1 if broken else 0)
