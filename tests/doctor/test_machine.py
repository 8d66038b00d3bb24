import huggingface_hub
import pytest
from hub_double import TOKEN, connected_hub

from cmdl_hf.cli import main
from cmdl_hf.doctor import examine_machine, format_findings, machine


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with connected_hub(monkeypatch, tmp_path) as hub:
        yield hub


def _find(name):
    return next(finding for finding in examine_machine() if finding.name == name)


def _run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", *map(str, arguments)])
    return stopped.value.code


def test_a_machine_in_order(hub, capsys):
    assert _run() == 0
    printed = capsys.readouterr().out
    for text in (
        "Versions\n  cmdl_hf",
        "torch ",
        "bf16 on the CPU",
        "scikit-learn",
        "login              as me",
        "free",
    ):
        assert text in printed
    assert "BROKEN" not in printed
    assert TOKEN not in printed


def test_a_token_that_the_hub_does_not_accept(hub, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_revokedREVOKEDrevokedREVOKEDrevoked")
    assert _run() == 1
    printed = capsys.readouterr().out
    assert "BROKEN: the Hub does not accept the token: hf auth login" in printed
    assert printed.endswith("broken: login\n")
    assert "hf_revoked" not in printed


def test_without_a_network(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached (ConnectError)" in _find("connection").text
    assert not _find("connection").is_broken
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    assert _find("connection").text == "not tried: HF_HUB_OFFLINE is set"


def test_packages_that_are_missing_or_too_old(monkeypatch):
    versions = {"torch": "1.0", "timm": None, "scikit-learn": None}
    found = machine._version
    monkeypatch.setattr(machine, "_version", lambda package: versions.get(package, found(package)))
    findings = {finding.name: finding for finding in [*machine._versions(), *machine._extras()]}
    assert findings["torch"].is_broken
    assert "1.0 does not fit >=" in findings["torch"].text
    assert "missing: pip install 'timm>=" in findings["timm"].text
    assert not findings["explore"].is_broken
    assert "missing scikit-learn: " in findings["explore"].text
    assert "pip install" in findings["explore"].text


def test_folders_that_cannot_be_used(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "file" / "below"))
    finding = _find("HF_HOME")
    assert finding.is_broken
    assert "is a file; set HF_HOME to another folder" in finding.text


def test_names_cannot_forge_lines():
    text = format_findings([machine.Finding("Hub", "login", "as me\nBROKEN: all\x1b[31m")])
    assert text.splitlines() == ["Hub", "  login              as me BROKEN: all\\x1b[31m"]
