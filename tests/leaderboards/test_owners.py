"""Nobody speaks for another: names belong to keys, and what others are tested against is the maintainers' alone."""

import json
import os
import shutil
import stat
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from complaints import complaints
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from made_records import OWN, badge, changed, entry, list_file, repeated, store, vary

from sidebench.benchmark.errors import BadInput, BadRecord
from sidebench.benchmark.files import lock_of
from sidebench.leaderboards import make_records, owner_keys, ranking
from sidebench.leaderboards.badge import checked_file
from sidebench.leaderboards.check import check_files
from sidebench.leaderboards.check_base import check_on_base
from sidebench.leaderboards.gate_baseline import read_baseline
from sidebench.leaderboards.make_records import add_records, write_record
from sidebench.leaderboards.owner_keys import make_key, public_half, read_key, signed
from sidebench.leaderboards.owners import FILE, SCHEMA, Owners, claim, normal, parse_owners, read_owners
from sidebench.leaderboards.ranking import Leaderboard, rank, read_leaderboard
from sidebench.leaderboards.read_records import record_files
from sidebench.leaderboards.record import Record

Call = Callable[..., tuple[int, str, str]]

ALICE, MALLORY, BOB = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2, 3))
A, M, B = (public_half(key) for key in (ALICE, MALLORY, BOB))

LOOK_ALIKES = {
    "case": "ALICE",
    "full width": "\uff21lice",
    "zero width": "al\u200bice",
    "joiner": "a\u200dlice",
    "soft hyphen": "ali\u00adce",
    "space": " alice\u00a0",
    "grapheme joiner": "al\u034fice",
    "variation": "alice\ufe0f",
    "filler": "alice\u3164",
    "direction": "\u202aalice",
    "script letter": "a\u2113ice",
    "Cyrillic": "\u0430li\u0441\u0435",
    "Cyrillic capitals": "\u0410LI\u0421\u0415",
    "Greek": "\u03b1l\u03b9ce",
}


@pytest.fixture(scope="module")
def base(real_records: list[Record]) -> Record:
    """Return the record of plain sampling, not signed yet."""
    return real_records[0]


def registry(**names: str) -> Owners:
    return Owners(schema=SCHEMA, maintainers=[], names={"sidebench": "maintainers", **names}, unsigned=[])


def content(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(record.text())
    return found


def fault(record: Record, owners: Owners) -> tuple[str, str] | None:
    return owners.fault(record, content(record), entry(record).sha256)


def write_owners(folder: Path, **changes: Any) -> None:
    stored = json.loads((folder / FILE).read_text(encoding="utf-8"))
    (folder / FILE).write_text(Owners(**{**stored, **changes}).text(), encoding="utf-8")


def fields(problems: list[Any]) -> list[tuple[str, str]]:
    return sorted((problem.file, problem.field) for problem in problems)


@pytest.fixture
def merged(base: Record, real_records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of records that is merged: plain sampling by the maintainers, `side` by alice."""
    # Their numbers agree, and computing them again takes a second.
    monkeypatch.setattr("sidebench.leaderboards.check.check_record", lambda record, today: [])
    folder = tmp_path / "merged"
    store(changed(base, submitter="sidebench"), folder)
    write_record(signed(changed(real_records[2], submitter="alice"), ALICE), folder)
    write_owners(folder, names={"sidebench": "maintainers", "alice": A})
    return folder


@pytest.fixture
def sent(merged: Path) -> Path:
    """Return a copy of the merged folder, for somebody to change and to send."""
    return Path(shutil.copytree(merged, merged.with_name("sent")))


def file_of(folder: Path, submitter: str) -> Path:
    (found,) = [file for file in record_files(folder) if content_of(file)["submitter"] == submitter]
    return found


def content_of(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


# ---- Signatures -------------------------------------------------------------------------------------


def test_a_signed_record_is_its_owners(base: Record) -> None:
    record = signed(changed(base, submitter="Alice"), ALICE)
    assert record.owner == A and fault(record, registry(alice=A)) is None
    assert signed(record, ALICE) == record and record.claim == base.claim


def cheats(base: Record) -> dict[str, tuple[Record, str]]:
    """Return records in alice's name that are not hers, each with the field that is refused."""
    genuine = signed(changed(base, submitter="alice"), ALICE)
    other = signed(changed(base, submitter="alice", submitted=date(2026, 1, 1)), ALICE)
    digits = genuine.signature or ""
    return {
        "another key": (signed(genuine, MALLORY), "owner"),
        "signature of another record": (changed(genuine, signature=other.signature), "signature"),
        "signature by another key": (changed(genuine, signature=signed(genuine, MALLORY).signature), "signature"),
        "owner put on": (changed(signed(genuine, MALLORY), owner=A), "signature"),
        "changed number": (changed(genuine, excess=base.excess.model_copy(update={"value": 0.9})), "signature"),
        "changed name": (changed(signed(changed(base, submitter="bob"), BOB), submitter="alice"), "signature"),
        "changed signature": (changed(genuine, signature=f"{int(digits[0], 16) ^ 1:x}{digits[1:]}"), "signature"),
        "no signature": (changed(genuine, signature=None), "signature"),
        "no owner": (changed(genuine, owner=None), "owner"),
        "neither": (changed(genuine, owner=None, signature=None), "signature"),
        "no key": (changed(genuine, owner="f" * 64), "signature"),
    }


CHEATS: tuple[str, ...] = (
    "another key",
    "signature of another record",
    "signature by another key",
    "owner put on",
    "changed number",
)
CHEATS += ("changed name", "changed signature", "no signature", "no owner", "neither", "no key")


@pytest.mark.parametrize("name", CHEATS)
def test_cheat_a_record_that_its_owner_did_not_sign_is_refused(base: Record, name: str) -> None:
    found = cheats(base)
    assert sorted(found) == sorted(CHEATS)
    record, field = found[name]
    refused = fault(record, registry(alice=A, bob=B))
    assert refused is not None and refused[0] == field, refused


def test_cheat_a_name_that_nobody_entered_counts_for_nobody(base: Record) -> None:
    assert fault(signed(base, MALLORY), registry()) == ("submitter", f"{FILE} names no owner of 'somebody'")
    assert fault(signed(changed(base, submitter="SideBench"), MALLORY), registry()) == (
        "owner",
        "'SideBench' belongs to the maintainers",
    )


def test_a_key_of_the_maintainers_speaks_for_them(base: Record) -> None:
    record = signed(changed(base, submitter="sidebench"), ALICE)
    owners = registry().model_copy(update={"maintainers": [A]})
    assert fault(record, owners) is None and owners.is_maintainers(record)
    assert not owners.is_maintainers(signed(record, MALLORY))


def test_an_older_schema_has_no_owner(base: Record, tmp_path: Path) -> None:
    from made_records import as_version

    from sidebench.leaderboards.read_records import parse_record

    for field in ("owner", "signature"):
        for version in (1, 2, 3):
            with pytest.raises(BadRecord, match=f"^r.json, {field}: belongs to sidebench-record/4"):
                parse_record({**as_version(base, version), field: "0" * 64}, "r.json")


# ---- Names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_cheat_a_name_that_looks_the_same_is_the_same(base: Record, name: str) -> None:
    spelled = LOOK_ALIKES[name]
    assert normal(spelled) == "alice"
    refused = fault(signed(changed(base, submitter=spelled), MALLORY), registry(alice=A))
    assert refused is not None and refused[0] == "owner" and f"belongs to the key {A[:12]}" in refused[1]
    assert fault(signed(changed(base, submitter=spelled), ALICE), registry(alice=A)) is None


def test_names_that_look_otherwise_are_others() -> None:
    others = ["alice", "alice2", "al-ice", "\u00e4lice", "alicia", "\u0431lice", "\u03b4lice"]
    assert len({normal(name) for name in others}) == len(others), "Cyrillic be and Greek delta look like themselves"
    assert normal("e\u200b\u0301") == normal("\u00c9") == "\u00e9"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"names": {"Alice": A}}, "names"),
        ({"names": {"": A}}, "names"),
        ({"names": {"alice": "me"}}, "names.alice"),
        ({"names": {"alice": A.upper()}}, "names.alice"),
        ({"maintainers": ["alice"]}, "maintainers.0"),
        ({"unsigned": ["0" * 12]}, "unsigned.0"),
        ({"schema": "sidebench-owners/2"}, "schema"),
        ({"rank": 1}, "rank"),
    ],
)
def test_a_registry_that_says_something_impossible_is_refused(change: dict[str, Any], field: str) -> None:
    text = json.dumps({**json.loads(registry().text()), **change})
    with pytest.raises(BadRecord, match=rf"^owners\.json, {field}"):
        parse_owners(text.encode())


# ---- Boards -----------------------------------------------------------------------------------------


def submitters(found: Leaderboard) -> list[str]:
    return [row.record.submitter for board in found.boards for row in board.ranked]


def test_cheat_a_forged_record_makes_no_genuine_one_stale(base: Record, merged: Path) -> None:
    genuine = file_of(merged, "alice")
    later = changed(Record(**content_of(genuine)), submitted=date(2026, 1, 3))
    forged = {
        write_record(record, merged).name: field
        for record, field in (
            (signed(later, MALLORY), "owner"),
            (later, "signature"),
            (changed(later, owner=None, signature=None), "signature"),
            (signed(changed(later, submitter="\uff21LICE"), MALLORY), "owner"),
        )
    }
    found = read_leaderboard(merged)
    assert sorted(submitters(found)) == ["alice", "sidebench"] and not found.stale
    assert sorted(Path(name).name for name, _ in found.unusable) == sorted(forged)
    assert all(f", {forged[Path(name).name]}: " in why for name, why in found.unusable)
    assert fields(check_files(record_files(merged), merged, date(2026, 1, 4))) == sorted(forged.items())


def test_only_the_same_owner_supersedes(base: Record) -> None:
    first, *later = (changed(base, submitter="alice", submitted=date(2026, 1, day)) for day in (2, 3, 4))
    rows = [signed(first, ALICE), signed(changed(later[0], submitter="Alice "), ALICE), signed(later[1], MALLORY)]
    found = rank([entry(row) for row in rows])
    assert [row.record for row in found.stale] == [rows[0]] and entry(rows[1]).id in found.stale[0].why
    assert len(found.boards[0].ranked) == 2


def test_cheat_plain_sampling_of_a_stranger_is_no_baseline(base: Record) -> None:
    rates = {"side": 0.3, "carlini-uncond": 0.08}
    mine, plain = (
        vary(base, rate, draw, candidates=600, attack=name, **OWN) for draw, (name, rate) in enumerate(rates.items())
    )
    forged = signed(vary(base, 0.9, 7, candidates=600, submitter="mallory", **OWN), MALLORY)
    (board,) = rank([entry(record) for record in (plain, mine, forged)]).boards
    assert [(row.record.submitter, row.record.claim.attack, row.against_plain) for row in board.ranked] == [
        ("mallory", "carlini-uncond", "finds more"),
        ("somebody", "side", "finds more"),
        ("somebody", "carlini-uncond", ""),
    ]
    (board,) = rank([entry(record) for record in (mine, forged)]).boards
    assert [row.against_plain for row in board.ranked] == ["", ""], "without the maintainers' there is no baseline"


def test_cheat_a_strangers_attack_without_a_defence_is_no_reference(base: Record) -> None:
    plain = vary(base, 0.3, 0, candidates=600, **OWN)
    defended = vary(base, 0.2, 1, candidates=600, defences={"weak": {}}, **OWN)
    forged = signed(vary(base, 0.9, 2, candidates=600, submitter="mallory", **OWN), MALLORY)

    def reference(*records: Record) -> list[Record]:
        boards = rank([entry(record) for record in (defended, *records)]).boards
        return [row.record for board in boards if board.kind == "defences" for row in board.reference]

    assert reference(plain, forged) == [plain]
    assert reference(forged) == []


def test_maintainers_are_read_from_the_folder(base: Record, tmp_path: Path) -> None:
    plain, side = (signed(vary(base, 0.2, n, attack=a, **OWN), ALICE) for n, a in enumerate(("carlini-uncond", "side")))
    names = {"somebody": A}
    for record in (plain, side):
        write_record(record, tmp_path)
    for maintainers, said in (([A], True), ([M], False)):
        owners = Owners(schema=SCHEMA, maintainers=maintainers, names=names, unsigned=[])
        (tmp_path / FILE).write_text(owners.text(), encoding="utf-8")
        (board,) = read_leaderboard(tmp_path).boards
        assert any(row.against_plain for row in board.ranked) == said


def test_without_a_registry_nothing_counts(base: Record, merged: Path) -> None:
    for text, why in (("{}", "owners.json, schema: Field required"), ("{", "owners.json, file: cannot be read")):
        (merged / FILE).write_text(text, encoding="utf-8")
        found = read_leaderboard(merged)
        assert not found.boards and len(found.unusable) == 2
        assert all(said.startswith(why) for _, said in found.unusable)
        assert FILE in {problem.file for problem in check_files(record_files(merged), merged)}
    (merged / FILE).unlink()
    assert not read_leaderboard(merged).boards
    assert {problem.field for problem in check_files(record_files(merged), merged)} == {"signature", "submitter"}


def test_a_registry_is_written_as_sidebench_does(merged: Path) -> None:
    (merged / FILE).write_text(json.dumps(json.loads((merged / FILE).read_text(encoding="utf-8"))), encoding="utf-8")
    assert fields(check_files(record_files(merged), merged)) == [(FILE, "file")]


def test_the_same_claim_in_another_spelling_is_a_repetition(merged: Path) -> None:
    again = changed(Record(**content_of(file_of(merged, "alice"))), submitter="ALICE", submitted=date(2026, 1, 3))
    write_record(signed(again, ALICE), merged)
    assert [field for _, field in fields(check_files(record_files(merged), merged))] == ["claim"]


def test_a_gate_takes_no_forged_baseline(base: Record, merged: Path, tmp_path: Path) -> None:
    genuine = file_of(merged, "alice")
    assert read_baseline(genuine) is not None
    alone = tmp_path / genuine.name
    shutil.copy(genuine, alone)
    assert read_baseline(alone) is not None, "outside a folder of records the signature alone is checked"
    record = Record(**content_of(genuine))
    for forged, folder, field in (
        (signed(record, MALLORY), merged, "owner"),
        (changed(record, submitted=date(2026, 1, 3)), tmp_path / "elsewhere", "signature"),
    ):
        with pytest.raises(BadRecord, match=f", {field}: "):
            read_baseline(write_record(forged, folder))


# ---- On top of what is merged -----------------------------------------------------------------------


def new_record(folder: Path, submitter: str, key: Ed25519PrivateKey) -> str:
    genuine = Record(**content_of(file_of(folder, "alice")))
    return write_record(signed(repeated(changed(genuine, submitter=submitter)), key), folder).name


def test_what_is_merged_passes_and_a_new_name_is_welcome(merged: Path, sent: Path) -> None:
    assert check_on_base(sent, merged) == []
    new_record(sent, "bob", BOB)
    write_owners(sent, names={"sidebench": "maintainers", "alice": A, "bob": B})
    assert check_on_base(sent, merged) == [] == check_files(record_files(sent), sent)


def test_cheat_a_merged_record_is_neither_changed_nor_removed(merged: Path, sent: Path) -> None:
    file = file_of(sent, "alice")
    file.write_bytes(file.read_bytes() + b" ")
    assert (file.name, "file") in fields(check_on_base(sent, merged))
    file.unlink()
    (problem,) = check_on_base(sent, merged)
    assert (problem.file, problem.field) == (file.name, "file") and "is merged and missing here" in problem.message


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"names": {"sidebench": "maintainers", "alice": M}}, "names.alice"),
        ({"names": {"sidebench": "maintainers", "alice": "maintainers"}}, "names.alice"),
        ({"names": {"sidebench": "maintainers"}}, "names.alice"),
        ({"names": {"sidebench": M, "alice": A}}, "names.sidebench"),
        ({"names": {"sidebench": "maintainers", "alice": A, "bob": B}}, "names.bob"),
        ({"maintainers": [M]}, "maintainers"),
        ({"unsigned": []}, "unsigned"),
    ],
)
def test_cheat_an_owner_that_is_merged_stays(merged: Path, sent: Path, change: dict[str, Any], field: str) -> None:
    write_owners(sent, **change)
    assert fields(check_on_base(sent, merged)) == [(FILE, field)]


@pytest.mark.parametrize("registered", [True, False])
def test_cheat_a_new_record_by_another_key_is_refused(merged: Path, sent: Path, registered: bool) -> None:
    name = new_record(sent, "\uff21lice", MALLORY)
    if registered:
        write_owners(sent, names={"sidebench": "maintainers", "alice": M})
    found = fields(check_on_base(sent, merged))
    assert found == sorted([(name, "owner"), *([(FILE, "names.alice")] if registered else [])])


def test_cheat_an_unsigned_record_that_is_listed_by_its_maker_is_refused(merged: Path, sent: Path) -> None:
    forged = changed(Record(**content_of(file_of(sent, "alice"))), owner=None, signature=None, submitter="sidebench")
    file = write_record(repeated(forged), sent)
    assert fields(check_files(record_files(sent), sent)) == [(file.name, "signature")]
    list_file(file, "sidebench", sent)
    assert check_files(record_files(sent), sent) == [], "a folder of one's own says who maintains it"
    assert fields(check_on_base(sent, merged)) == sorted([(file.name, "signature"), (FILE, "unsigned")])


def test_cheat_a_badge_for_a_merged_record_is_refused(merged: Path, sent: Path) -> None:
    file = file_of(sent, "alice")
    bad = badge(entry(Record(**content_of(file))), agreed=3, record=entry(Record(**content_of(file))).sha256)
    checked_file(file).write_text(bad.model_dump_json(by_alias=True), encoding="utf-8")
    assert (checked_file(file).name, "file") in fields(check_on_base(sent, merged))


def test_the_command_compares_with_what_is_merged(merged: Path, sent: Path, call: Call) -> None:
    check = ("leaderboard", "check", "--records", sent, "--base")
    assert call(*check, merged)[::2] == (0, "2 records, 0 problems\n")
    count, alone = complaints(call(*check[:-1])[2])
    assert count == "2 records, 0 problems" and "not compared with what is merged" in alone and "--base" in alone
    name = new_record(sent, "alice", MALLORY)
    code, _, err = call(*check, merged)
    assert code == 2 and f"sidebench: {name}, owner: 'alice' belongs to the key {A[:12]}\n" in err
    for line, said in (
        ((*check, sent.parent), "holds no owners.json"),
        ((*check, merged, file_of(merged, "sidebench")), "--base compares whole folders"),
    ):
        code, _, err = call(*line)
        assert code == 2 and said in complaints(err)[0]


# ---- Keys -------------------------------------------------------------------------------------------


def test_a_key_is_made_once_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    file = owner_keys.default_file()
    assert file == tmp_path / "config" / "sidebench" / "owner.pem" and read_key(file) is None
    before = os.umask(0)
    try:
        key = make_key(file)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert file.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    again = read_key(file)
    assert again is not None and public_half(again) == public_half(key)
    kept = file.read_bytes()
    with pytest.raises(BadInput, match="File exists"):
        make_key(file)
    assert file.read_bytes() == kept
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert owner_keys.default_file() == tmp_path / ".config" / "sidebench" / "owner.pem"


def pem(key: Any, lock: Any = None) -> bytes:
    found: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock or NoEncryption())
    return found


def test_a_key_file_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "owner.pem"
    for written in (
        b"",
        b"\xff",
        pem(ALICE)[:60],
        pem(X25519PrivateKey.generate()),
        pem(ALICE, BestAvailableEncryption(b"x")),
    ):
        file.write_bytes(written)
        file.chmod(0o600)
        with pytest.raises(BadInput, match="holds no Ed25519 key"):
            read_key(file)
    file.write_bytes(pem(ALICE))
    for mode in (0o640, 0o604, 0o660):
        file.chmod(mode)
        with pytest.raises(BadInput, match="others may read it"):
            read_key(file)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for place in (tmp_path / "pipe", tmp_path):
        with pytest.raises(BadInput, match=r"is no regular file|Is a directory"):
            read_key(place)


def test_cheat_a_key_is_not_followed_through_a_link(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes(pem(ALICE))
    kept.chmod(0o600)
    for target in (kept, tmp_path / "nothing"):
        link = tmp_path / f"to-{target.name}"
        link.symlink_to(target)
        with pytest.raises(BadInput, match="is a link"):
            read_key(link)
        with pytest.raises(BadInput, match="File exists"):
            make_key(link)
    assert kept.read_bytes() == pem(ALICE) and not (tmp_path / "nothing").exists()


def test_a_key_stays_out_of_what_is_handed_on(base: Record, tmp_path: Path) -> None:
    run, records = tmp_path / "runs" / "run", tmp_path / "records"
    for place in (run / "state", records / "deep"):
        place.mkdir(parents=True)
    (run / "manifest.json").touch()
    for place in (run, run / "state", records, records / "deep"):
        with pytest.raises(BadInput, match="goes to others"):
            claim([base], records, place / "owner.pem")
        assert not (place / "owner.pem").exists()
    (record,) = claim([base], records, tmp_path / "owner.pem")
    private = (tmp_path / "owner.pem").read_text(encoding="utf-8").splitlines()[1]
    assert private not in record.text() + (records / FILE).read_text(encoding="utf-8")


def test_a_name_goes_to_whoever_comes_first(base: Record, tmp_path: Path) -> None:
    records = tmp_path / "records"
    (mine,) = claim([base], records, tmp_path / "a.pem")
    owners = read_owners(records)
    assert owners.names == {"somebody": mine.owner} and owners.maintainers == [mine.owner] and owners.unsigned == []
    for file in (tmp_path / "b.pem", None):
        with pytest.raises(BadInput, match=f"belongs to the key {str(mine.owner)[:12]}; choose another name"):
            claim([changed(base, submitter="Some Body")], records, file)
    assert not (tmp_path / "b.pem").exists() and read_owners(records) == owners
    (other,) = claim([changed(base, submitter="other")], records, tmp_path / "b.pem")
    assert read_owners(records).names == {"somebody": mine.owner, "other": other.owner}
    assert read_owners(records).maintainers == [mine.owner], "the first key of a folder is its maintainer's"
    with pytest.raises(BadInput, match="no letter that shows"):
        claim([changed(base, submitter="\u200b \u3164")], records, tmp_path / "a.pem")


def test_the_command_signs_and_says_once_where_the_key_lies(
    finished: Any, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    records, key = tmp_path / "records", tmp_path / "config" / "sidebench" / "owner.pem"

    def add(name: str, attack: str, *more: object) -> tuple[int, str, str]:
        add = ("leaderboard", "add", finished.folder.path, "--as", name, "--attack", attack)
        return call(*add, "--records", records, *more)

    code, out, err = add("alice", "side")
    file = Path(out.strip())
    site, made = complaints(err)
    assert code == 0 and made == f"made the key {key}: keep it secret, whoever has it speaks for alice"
    assert site == "see where they stand: sidebench leaderboard build"
    record = Record(**content_of(file))
    assert record.signature and read_owners(records).names == {"alice": record.owner}
    monkeypatch.setattr(ranking, "LEAST_PREPARATIONS", 3)
    code, out, err = add("alice", "carlini-cond")
    assert code == 0 and complaints(err) == [
        f"{Path(out.strip()).name} will have no rank: 1 preparations of 40 candidates; ranked are at least 3 of 1",
        site,
    ]
    assert call("leaderboard", "check", "--records", records)[0] == 0

    code, _, err = add("Alice", "carlini-uncond", "--key", tmp_path / "other.pem")
    (line,) = complaints(err)
    assert code == 2 and "belongs to the key" in line and not (tmp_path / "other.pem").exists()
    code, _, err = add("alice", "carlini-uncond", "--unsigned", "--key", key)
    assert code == 2 and "--unsigned uses no key" in err
    code, out, err = add("keepers", "carlini-uncond", "--unsigned")
    assert code == 0 and content_of(Path(out.strip()))["owner"] is None
    assert read_owners(records).names["keepers"] == "maintainers"
    assert call("leaderboard", "check", "--records", records)[0] == 0


def test_of_two_adds_at_once_one_waits(finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_records, "LONGEST_WAIT", 0.0)
    held = lock_of(tmp_path / ".lock")
    with held, pytest.raises(BadInput, match="another process is writing to"):
        add_records(finished.folder, "alice", ["side"], tmp_path)
    assert add_records(finished.folder, "alice", ["side"], tmp_path)[0].is_file()
