import pytest

from cmdl_hf.json_files import read_json, read_json_lines


def test_json_of_names_and_values_is_read_and_other_content_named(tmp_path):
    file = tmp_path / "run.json"
    assert read_json(file, "mend it") == {}
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(file, "mend it") == {"a": 1}
    for content in (b"{", b"[1]", b"\xff", b"[" * 100_000, b""):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"run\.json .*(mend it|UTF-8)"):
            read_json(file, "mend it")


def test_lines_are_read_and_a_damaged_one_is_named(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert read_json_lines(file) == []
    file.write_text('{"step": 2}\n{"step": 4}\n{"step": 6, "lo')
    assert read_json_lines(file) == [{"step": 2}, {"step": 4}]
    for line in ('{"step": 4, "lo', "4", ""):
        file.write_text(f'{{"step": 2}}\n{line}\n{{"step": 6}}\n')
        with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2, .*mend it"):
            read_json_lines(file, "mend it")
