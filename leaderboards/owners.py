"""Whose a record is: nobody speaks for another, and a pair's name stands for one victim.

`owners.json` in a folder of records names the owner of each submitter's name: a public key, or the maintainers. Whose
name is entered first has it, so "first" is what was merged first and no date that a record states. A record counts
where its signature holds and its name belongs to the key that signed. A record without a signature is the maintainers'
and counts where `unsigned` lists its SHA-256. What others are tested against (plain sampling, the attack without a
defence) is taken from records of the maintainers alone: unsigned ones, and those by a key that `maintainers` lists.

Names are compared as NFKC, case-folded, without spaces and invisible letters, and Cyrillic and Greek letters as the
Latin ones that they look like. Letters of further scripts are other letters here: whoever merges a new name looks at
it.
"""

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ..benchmark.errors import BadInput, BadRecord, first_problem
from ..benchmark.files import canonical_json, parse_json, read_bytes, write_text
from .detection_record import AnyRecord, DetectionRecord
from .owner_keys import holds, make_key, public_half, read_key, refuse_place, signed
from .record import Record
from .victims import facts, name_of, other_victim

_Record = TypeVar("_Record", Record, DetectionRecord)

FILE = "owners.json"
"""The registry's name, at the top of a folder of records."""

SCHEMA = "sidebench-owners/1"

MAINTAINERS = "maintainers"
"""In place of a key: the name is the maintainers'."""

_INVISIBLE = {
    *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2065, 0x2800, 0x3164, 0xFFA0),
    *range(0xFFF0, 0xFFF9),
    *range(0x180B, 0x1810),
    *range(0xFE00, 0xFE10),
    *range(0xE0000, 0xE1000),
}
"""Letters and marks that show nothing, beside the controls and formats (category C) and spaces (Z)."""

_LOOKS_LIKE = str.maketrans(
    # Capitals first, for some look like another letter than their small form does.
    "АВЕЅІЈКМНОРСТУХԜҮԌ" + "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ" + "авеѕіјкмнорстухһԁԛԝӏ" + "αβεηικνορτυχ",
    "ABESIJKMHOPCTYXWYG" + "ABEZHIKMNOPTYX" + "abesijkmhopctyxhdqwl" + "abenikvoptux",
)
"""Cyrillic and Greek letters that nobody can tell from Latin ones in some typeface (Unicode's confusables, UTS 39)."""

Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="Ed25519 public key")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def normal(name: str) -> str:
    r"""Return a submitter's name as names are compared.

    >>> normal("Side Bench"), normal("\uff33IDE\u200bbench"), normal("\u0405id\u0435bench")
    ('sidebench', 'sidebench', 'sidebench')
    """
    # Letters may compose once what stood between them is gone, and what is composed may fold.
    while (found := _folded(name)) != name:
        name = found
    return name


def _folded(name: str) -> str:
    plain = unicodedata.normalize("NFKC", name).translate(_LOOKS_LIKE)
    folded = unicodedata.normalize("NFKC", plain.casefold()).translate(_LOOKS_LIKE)
    return "".join(letter for letter in folded if _shows(letter))


def _shows(letter: str) -> bool:
    # What this Python does not know (Cn) may be a letter to a newer one: a name must be the same to both.
    kind = unicodedata.category(letter)
    return (kind[0] not in "CZ" or kind == "Cn") and ord(letter) not in _INVISIBLE


class Owners(BaseModel):
    """Who owns which name in a folder of records, and which records are the maintainers'."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal["sidebench-owners/1"] = Field(alias="schema", description="name and version of this schema")
    maintainers: list[Key] = Field(description="public keys of those whose records others are tested against")
    names: dict[str, Key | Literal["maintainers"]] = Field(description="public key, or the maintainers, by name")
    unsigned: list[Sha256] = Field(description="SHA-256 of the records that are the maintainers' without a signature")
    victims: dict[str, dict[str, Any]] = Field(
        {}, description="hashes and sizes of model, images and sides by NAME@REVISION of a pair, as first recorded"
    )

    @field_validator("names")
    @classmethod
    def _are_normal(cls, names: dict[str, str]) -> dict[str, str]:
        for name in names:
            if not name or normal(name) != name:
                raise ValueError(f"{name!r} is not written as names are compared: {normal(name)!r}")
        return names

    def text(self) -> str:
        """Return the registry as canonical JSON, the bytes of its file."""
        return canonical_json(self.model_dump(mode="json", by_alias=True))

    def fault(self, record: AnyRecord, content: Mapping[str, Any], sha256: str) -> tuple[str, str] | None:
        """Return (field, message) of why a record is not its submitter's, or None where it is.

        `content` is the JSON value of its file, of whatever schema, and `sha256` the hash of the file's bytes.
        """
        if found := signature_fault(record, content):
            return found
        owner = self.names.get(normal(record.submitter))
        if record.owner is None and sha256 not in self.unsigned:
            return "signature", f"is missing, and {FILE} does not list the record among those of the maintainers"
        if owner is None:
            return "submitter", f"{FILE} names no owner of {record.submitter!r}"
        if record.owner != owner and not (owner == MAINTAINERS and self.is_maintainers(record)):
            return "owner", f"{record.submitter!r} belongs to {_whom(owner)}"
        return other_victim(record, self.victims)

    def is_maintainers(self, record: AnyRecord) -> bool:
        """Return whether a record without a fault is the maintainers'."""
        return record.owner is None or record.owner in self.maintainers

    def refuse_other(self, name: str, key: str | None) -> None:
        """Refuse a name that belongs to another than this key, or `MAINTAINERS`; None is a key that is yet to be made.

        Raises:
            BadInput: it does, or has no letter that shows.
        """
        if not normal(name):
            raise BadInput(f"--as {name!r}: has no letter that shows")
        owner = self.names.get(normal(name))
        if owner is None or owner == key or (owner == MAINTAINERS and key in self.maintainers):
            return
        raise BadInput(f"--as {name!r}: belongs to {_whom(owner)}; choose another name, or give the key by --key FILE")

    def naming(self, name: str, owner: str) -> "Owners":
        """Return the registry with an entry for a name; one that is there stays."""
        return self.model_copy(update={"names": {normal(name): owner, **self.names}})

    def listing(self, name: str, files: Iterable[bytes]) -> "Owners":
        """Return the registry with unsigned records, the bytes of their files, as the maintainers' under a name."""
        hashes = {hashlib.sha256(content).hexdigest() for content in files}
        return self.naming(name, MAINTAINERS).model_copy(update={"unsigned": sorted({*self.unsigned, *hashes})})

    def knowing(self, made: Iterable[AnyRecord]) -> "Owners":
        """Return the registry with an entry for the pair of each record; one that is there stays."""
        new = {name_of(record): facts(record) for record in made}
        return self.model_copy(update={"victims": {**new, **self.victims}})

    def after(self, base: "Owners") -> "Owners":
        """Return what counts once this registry is merged on top of `base`: that one, and names that are new."""
        new = {field: {**getattr(self, field), **getattr(base, field)} for field in ("names", "victims")}
        return base.model_copy(update=new)

    def changes(self, base: "Owners") -> Iterator[tuple[str, str]]:
        """Yield (field, message) of every entry of `base` that is changed or removed, and who else would decide."""
        yield from self.taken(base)
        for name in sorted(base.names.keys() - self.names.keys()):
            yield f"names.{name}", "is removed; a name stays its owner's"
        for name in sorted(base.victims):
            if self.victims.get(name) != base.victims[name]:
                yield f"victims.{name}", "is changed or removed; a pair stays what its first record has it"
        for field in ("maintainers", "unsigned"):
            if set(getattr(self, field)) != set(getattr(base, field)):
                yield field, "is changed; only the maintainers say what is theirs"

    def taken(self, base: "Owners") -> Iterator[tuple[str, str]]:
        """Yield (field, message) of every name that belongs to somebody else in `base`."""
        for name in sorted(base.names.keys() & self.names.keys()):
            if self.names[name] != base.names[name]:
                yield f"names.{name}", f"belongs to {_whom(base.names[name])} in what is merged"


def signature_fault(record: AnyRecord, content: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return (field, message) where a record has half a signature or one that does not hold."""
    if (record.owner is None) != (record.signature is None):
        field, other = ("owner", "signature") if record.owner is None else ("signature", "owner")
        return field, f"is missing beside the field {other}"
    if record.owner is not None and not holds(content):
        return "signature", "does not hold: the record was changed after it was signed, or another key signed it"
    return None


def read_owners(records: Path) -> Owners:
    """Return the registry of a folder of records, an empty one where it has none.

    Raises:
        BadRecord: the file cannot be read, or says something impossible; the message names the field.
    """
    try:
        return parse_owners(read_bytes(records / FILE))
    except FileNotFoundError:
        return Owners(schema=SCHEMA, maintainers=[], names={}, unsigned=[])
    except OSError as error:
        raise BadRecord(f"{FILE}, file: cannot be read: {error.strerror}") from None


def parse_owners(content: bytes) -> Owners:
    """Return the registry in a file's bytes; raises `BadRecord` as `read_owners`."""
    try:
        return Owners.model_validate(parse_json(content))
    except ValidationError as error:
        raise BadRecord(first_problem(error).of(FILE)) from None
    except ValueError as error:
        raise BadRecord(f"{FILE}, file: cannot be read: {error}") from None


def folder_of(file: Path) -> Path:
    """Return the folder of records that a record's file lies in, two levels up."""
    parents = file.absolute().parents
    return parents[min(2, len(parents) - 1)]


def claim(made: Sequence[_Record], records: Path, key_file: Path | None) -> list[_Record]:
    """Return one submitter's records as they are to be written below a folder, and enter the name in its registry.

    They are signed with the key in `key_file`, which is made where there is none; the first key of a new folder is its
    maintainers'. Without a file they stay unsigned and are listed as the maintainers' own.

    Raises:
        BadInput: the name belongs to somebody else, or the key cannot be used or made.
        BadRecord: the registry cannot be read, or a record is of another victim than the one of its name.
    """
    owners, name = read_owners(records), made[0].submitter
    for record in made:
        if other := other_victim(record, owners.victims):
            raise BadRecord(f"{named(record)}, {other[0]}: {other[1]}")
    if key_file is None:
        owners.refuse_other(name, MAINTAINERS)
        listed = [record.text().encode() for record in made]
        entered, found = owners.listing(name, listed).knowing(made), list(made)
    else:
        refuse_place(key_file, records)
        key = read_key(key_file)
        owners.refuse_other(name, public_half(key) if key else None)
        key = key or make_key(key_file)
        entered, found = owners.naming(name, public_half(key)).knowing(made), [signed(record, key) for record in made]
        if not (records / FILE).exists():
            entered = entered.model_copy(update={"maintainers": [public_half(key)]})
    if entered != owners:
        write_text(records / FILE, entered.text())
    return found


def named(record: AnyRecord) -> str:
    """Return what messages call a record: its attack, or the track where it is of detectors."""
    return record.track if isinstance(record, DetectionRecord) else record.claim.attack


def _whom(owner: str) -> str:
    return "the maintainers" if owner == MAINTAINERS else f"the key {owner[:12]}"
