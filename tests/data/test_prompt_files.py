"""Prompts by file: three forms, labels in several spellings, and what is refused."""

from pathlib import Path

import pytest

from sidebench.benchmark.data.prompt_files import ListedPrompt, read_prompts
from sidebench.benchmark.errors import BadInput

CAT, DOG = ListedPrompt("a cat, black", "memorised", None), ListedPrompt("a dog", "never seen", None)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", 'prompt,label\n"a cat, black",1\na dog,0\n'),
        ("list.csv", '\ufefflabel,caption\nMemorized,"a cat, black"\nunseen,a dog\na,\n'.replace("a,\n", "")),
        ("list.jsonl", '{"text": "a cat, black", "label": true}\n\n{"text": "a dog", "label": "never seen"}\n'),
        ("list.jsonl", '{"index": 3, "caption": "a cat, black", "label": 1}\r\n{"caption": "a dog", "label": 0}'),
        ("list.jsonl", '{"caption": "a cat, black", "label": 1.0}\n{"caption": "a dog", "label": 0.0}'),
        ("list.txt", "memorised\ta cat, black\n0\ta dog\n0\ta dog\n"),
    ],
)
def test_labelled_prompts(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_prompts(tmp_path / name) == [CAT, DOG]


def test_lines_without_labels_and_families(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("a cat\n\n  a dog \n", encoding="utf-8")
    assert [(each.text, each.label) for each in read_prompts(tmp_path / "plain")] == [("a cat", None), ("a dog", None)]
    (tmp_path / "kin.csv").write_text("text,family\na cat,pets\n", encoding="utf-8")
    assert read_prompts(tmp_path / "kin.csv") == [ListedPrompt("a cat", None, "pets")]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"words,label\na cat,1\n", "a.csv, line 2: no prompt; a column must be called prompt, caption, text"),
        ("a.csv", b"prompt,label\na cat,perhaps\n", "line 2: unknown label; write one of memorised, memorized, 1"),
        ("a.txt", b"1\ta cat\n0\ta cat\n", "line 2: the same prompt has another label in an earlier line"),
        ("a.jsonl", b"{}\n[1]\n", "line 1: no prompt"),
        ("a.jsonl", b"[1]\n", "line 1 is no object"),
        ("a.jsonl", b'{"prompt": NaN}\n', "line 1: NaN is no number"),
        ("a.txt", b"\n \n", "holds no prompt"),
        ("a.csv", b'prompt,label\n"  ",1\n', "line 2: no prompt"),
        ("a.csv", b'prompt,label\n"a cat,1\na dog,0\n', "unexpected end of data"),
        ("a.txt", b"\xff\xfe", "is no text in UTF-8"),
    ],
)
def test_what_is_refused(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=said):
        read_prompts(tmp_path / name)
    with pytest.raises(BadInput, match="No such file"):
        read_prompts(tmp_path / "missing")
