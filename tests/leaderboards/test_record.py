"""Leaderboard records: made from a run, complete, readable again, and silent about whose images they are."""

import base64
import json
import zlib
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_records import as_version, changed, upgraded

from sidebench.benchmark.errors import BadInput, BadRecord, UnknownName
from sidebench.benchmark.files import read_json, read_table
from sidebench.benchmark.stats.comparison import excess_of
from sidebench.leaderboards import read_records
from sidebench.leaderboards.check import check_record
from sidebench.leaderboards.make_records import make_records, quality_of, write_record
from sidebench.leaderboards.read_records import parse_record, read_record, record_files
from sidebench.leaderboards.record import Record, command, pack, pooled_hits, unpack

TODAY = date(2026, 1, 2)


@pytest.fixture(scope="module")
def made(finished: Any) -> list[Record]:
    return make_records(finished.folder, "somebody", today=TODAY)


def test_one_record_per_attack_holds_what_the_run_found(finished: Any, made: list[Record]) -> None:
    assert [record.claim.attack for record in made] == ["carlini-uncond", "carlini-cond", "side"]
    for record in made:
        band = record.headline(0).bands[0]
        assert record.excess.value == pytest.approx(band.excess.value, abs=1e-12)
        assert (record.excess.low, record.excess.high) == pytest.approx((band.excess.low, band.excess.high))
        assert record.claim.settings == finished.folder.manifest()["units"][f"{record.claim.attack}.s0"]["settings"]
        assert record.victim.worked_example


def test_excess_follows_from_the_record_alone(made: list[Record]) -> None:
    for record in made:
        again = excess_of(pooled_hits([record], record.seeds)[0])
        assert again.value == pytest.approx(record.excess.value)
        assert again.interval == pytest.approx((record.excess.low, record.excess.high))


def test_paired_records_line_up_by_group(made: list[Record]) -> None:
    alone = [pooled_hits([record], [0])[0].training_credits for record in made]
    for own, paired in zip(alone, pooled_hits(made, [0]), strict=True):
        assert sorted(own) == sorted(paired.training_credits)
        assert len(paired.training_credits) == made[0].victim.training_groups


def test_seeds_are_pooled(make_plan: Any, tmp_path: Path) -> None:
    from sidebench.benchmark.runs import runner

    result = runner.execute(make_plan(tmp_path, attacks=("carlini-uncond",), seeds=(0, 1)))
    [record] = make_records(result.folder, "somebody")
    assert record.seeds == [0, 1] and [hits.seed for hits in record.hits] == [0, 1]
    each = [record.headline(seed).bands[0].excess.value for seed in (0, 1)]
    assert record.excess.value == pytest.approx(np.mean(each))
    assert record.command.count("--seed") == 2


def test_a_file_comes_back_the_same(made: list[Record], tmp_path: Path) -> None:
    for record in made:
        file = write_record(record, tmp_path)
        assert file.parent == tmp_path / "sidebench-2" / "digits"
        assert read_record(file) == record and read_record(file).id == record.id
    assert len(record_files(tmp_path)) == 3


def test_no_number_path_or_host_is_in_a_record(finished: Any, made: list[Record]) -> None:
    import socket

    table = read_table(finished.folder.path / "references.parquet")
    for record in made:
        text = record.text()
        assert str(finished.folder.path.parent) not in text and socket.gethostname() not in text
        assert "zoo:" not in text and "scikit" in text  # the version of scikit-learn, not the data's place
        for names in (record.hits[0].training_groups, record.hits[0].control_groups):
            assert all(len(name) == 16 for name in names)
            assert not set(names) & {str(group) for group in table["group"].to_pylist()}


def test_names_of_images_need_the_runs_key(finished: Any, copied: Path, made: list[Record]) -> None:
    from sidebench.benchmark.results.run_folder import read_run

    (copied / "hash.key").unlink(missing_ok=True)
    other = make_records(read_run(copied), "somebody", today=TODAY)
    for ours, theirs in zip(made, other, strict=True):
        assert ours.key_id != theirs.key_id
        assert not set(ours.hits[0].training_groups) & set(theirs.hits[0].training_groups)
        assert sorted(ours.hits[0].training_groups.values()) == sorted(theirs.hits[0].training_groups.values())


@pytest.mark.parametrize("count", [1, 7, 8, 9, 1000])
def test_bits_come_back(count: int) -> None:
    hits = np.random.default_rng(count).random(count) < 0.3
    assert np.array_equal(unpack(pack(hits), count, "hits"), hits)


@pytest.mark.parametrize(
    "text",
    ["", "###", pack(np.ones(20, dtype=bool)), pack(np.ones(16, dtype=bool)), pack(np.ones(8, dtype=bool)), "eA=="],
)
def test_other_bits_are_refused(text: str) -> None:
    with pytest.raises(BadRecord, match=r"hits\.training"):
        unpack(text, 12, "hits.training")


def deflated(content: bytes, level: int = 9, behind: bytes = b"") -> str:
    return base64.b64encode(zlib.compress(content, level) + behind).decode()


def test_packed_bits_have_no_room_for_anything_else() -> None:
    content = np.packbits(np.arange(4000) % 7 == 0).tobytes()
    assert len(unpack(deflated(content), 4000, "hits")) == 4000
    # An empty block of deflate, level 9 in the header: nothing comes of it, however often it stands there.
    stuffed = b"\x78\xda" + 100 * b"\x00\x00\x00\xff\xff" + zlib.compress(content, 9)[2:]
    assert zlib.decompress(stuffed) == content
    others = {
        "bytes behind": deflated(content, behind=b"SECRET"),
        "another level": deflated(content, 1),
        "not deflated": deflated(content, 0),
        "a line's end": deflated(content) + "\n",
        "empty blocks": base64.b64encode(stuffed).decode(),
    }
    for name, other in others.items():
        with pytest.raises(BadRecord, match=r"^hits: "):
            pytest.fail(f"{name}: {unpack(other, 4000, 'hits')}")


def test_base64_has_one_spelling() -> None:
    text = pack(np.ones(12, dtype=bool))
    other = f"{text[:-3]}{chr(ord(text[-3]) + 1)}=="
    assert base64.b64decode(other, validate=True) == base64.b64decode(text)
    with pytest.raises(BadRecord, match="hits: is not written as bits are packed"):
        unpack(other, 12, "hits")


def test_what_other_builds_of_zlib_make_is_read() -> None:
    bits = np.random.default_rng(0).random(4000) < 0.1
    # Another strategy at the same level stands for another build.
    other = zlib.compressobj(9, zlib.DEFLATED, 15, 9, zlib.Z_FILTERED)
    packed = other.compress(np.packbits(bits).tobytes()) + other.flush()
    assert np.array_equal(unpack(base64.b64encode(packed).decode(), 4000, "hits"), bits)


def test_a_bomb_is_not_unpacked() -> None:
    bomb = base64.b64encode(zlib.compress(bytes(50_000_000), 9)).decode()
    with pytest.raises(BadRecord, match="another number of bits"):
        unpack(bomb, 16, "hits.training")


def test_newer_and_unknown_schemas_are_refused(made: list[Record]) -> None:
    for schema in ("sidebench-record/99", "", None, ["x"]):
        with pytest.raises(BadRecord, match="schema"):
            parse_record({**json.loads(made[0].text()), "schema": schema}, "r.json")


def test_version_1_is_brought_up(made: list[Record]) -> None:
    old = as_version(made[0], 1)
    assert parse_record(old, "old.json") == upgraded(made[0])
    with pytest.raises(BadRecord, match=r"old.json, victim.sources: belongs to sidebench-record/2"):
        parse_record({**as_version(made[0], 2), "schema": "sidebench-record/1"}, "old.json")
    for victim in (None, [], {}):
        with pytest.raises(BadRecord, match=r"old.json, victim"):
            parse_record({**old, "victim": victim}, "old.json")


def test_version_3_kept_the_micro_batch_among_the_rules(made: list[Record]) -> None:
    old = as_version(made[0], 3)
    found = parse_record(old, "old.json")
    assert found == upgraded(made[0]) and found.made.micro_batch == old["protocol"]["micro_batch"] == 8
    for wrong in ({"protocol": {}}, {"made": []}, {"protocol": {**old["protocol"], "micro_batch": 0}}):
        with pytest.raises(BadRecord, match=r"old.json, (made|protocol)"):
            parse_record({**old, **wrong}, "old.json")


def test_version_4_knew_no_tracks_and_no_versions(made: list[Record]) -> None:
    (side,) = (record for record in made if record.claim.attack == "side")
    assert side.claim.version == 2 and side.track == "extraction"
    old = as_version(side, 4)
    found = parse_record(old, "old.json")
    assert found == upgraded(side, 2) and found.claim.version == 2, "it says settings of version 2"
    assert parse_record(as_version(made[0], 4), "old.json").claim.version == 1
    given = {**old, "victim": {**old["victim"], "family": "images"}}
    assert parse_record(given, "old.json").track == "images"
    for later in ({"track": "images"}, {"claim": {**old["claim"], "version": 2}}):
        with pytest.raises(BadRecord, match=r"(track|version): belongs to sidebench-record/5"):
            parse_record({**old, **later}, "old.json")


def test_version_5_knew_the_quality_of_images_in_pixels_alone(made: list[Record]) -> None:
    assert made[0].quality is not None
    asked = changed(made[0], quality=made[0].quality.model_copy(update={"caption_accuracy": 0.5}))
    old = as_version(asked, 5)
    found = parse_record(old, "old.json")
    assert found == made[0] and parse_record(json.loads(asked.text()), "new.json") == asked != found
    with pytest.raises(BadRecord, match=r"quality.caption_accuracy: belongs to sidebench-record/6"):
        parse_record({**old, "quality": {**old["quality"], "caption_accuracy": 0.5}}, "old.json")
    assert parse_record({**old, "quality": None}, "old.json").quality is None


def test_quality_is_the_mean_of_what_every_preparation_says() -> None:
    def unit(distance: float, **more: float) -> dict[str, float]:
        return {"frechet_distance": distance, "precision": 0.5, "recall": 0.25, **more}

    real = unit(2.0, frechet_distance_latents=40.0)
    first = unit(3.0, frechet_distance_latents=50.0, caption_accuracy=0.5, held_out_caption_accuracy=0.0)
    second = unit(4.0, frechet_distance_latents=60.0, caption_accuracy=0.25)
    found = quality_of({"training images": real, "a.s0": first, "a.s1": second, "b.s0": unit(9.0)}, ["a.s0", "a.s1"])
    assert found is not None and (found.frechet, found.frechet_of_training) == (3.5, 2.0)
    assert (found.frechet_latents, found.frechet_latents_of_training) == (55.0, 40.0)
    assert (found.caption_accuracy, found.held_out_caption_accuracy) == (0.375, None)
    assert quality_of({"training images": real, "a.s0": first}, ["a.s0", "a.s1"]) is None
    assert quality_of({"skipped": {}}, []) is None


def test_an_older_record_gets_the_ends_that_its_hits_give(made: list[Record]) -> None:
    now = as_version(made[0], 2)
    band = made[0].headline(0).bands[0]
    before = {**now, "excess": {**now["excess"], "high": band.excess.value + 1e-6}}
    before["results"] = json.loads(made[0].text())["results"]
    before["results"][0]["bands"][0]["excess"]["low"] -= 0.01
    before["results"][0]["bands"][1]["excess"]["low"] -= 0.01
    found = parse_record(before, "old.json")
    assert found.excess == made[0].excess and found.headline(0).bands[0] == band
    assert found.headline(0).bands[1].excess.low == before["results"][0]["bands"][1]["excess"]["low"]


def test_an_older_record_that_contradicts_itself_is_left_to_the_check(made: list[Record]) -> None:
    old = as_version(made[0], 2)
    for part, wrong in (("hits", []), ("hits", [{**old["hits"][0], "seed": 9}]), ("results", []), ("seeds", [0, 0])):
        found = parse_record({**old, part: wrong}, "old.json")
        assert found.excess == made[0].excess
        assert check_record(found), part


def test_versions_are_brought_up_one_after_another(made: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    old = as_version(made[0], 1)
    old["who"] = old.pop("submitter")

    def upgrade(content: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in content.items() if key != "who"}
        return {**kept, "submitter": content["who"], "schema": "sidebench-record/1"}

    monkeypatch.setitem(read_records.UPGRADES, "sidebench-record/0", upgrade)
    assert parse_record({**old, "schema": "sidebench-record/0"}, "old.json") == upgraded(made[0])


def test_sources_are_commits_without_the_name_of_a_branch(finished: Any, copied: Path) -> None:
    from sidebench.benchmark.files import write_json
    from sidebench.benchmark.results.run_folder import read_run

    manifest = read_json(copied / "manifest.json")
    origin = {"repo": "someone/model", "revision": "refs/my-secret-branch", "commit": "a" * 40}
    write_json(copied / "manifest.json", {**manifest, "sources": {"model": origin}})
    record = make_records(read_run(copied), "somebody", ["side"], today=TODAY)[0]
    assert record.victim.sources["model"].model_dump() == {"repo": "someone/model", "commit": "a" * 40}
    assert "secret" not in record.text()


def test_unknown_fields_are_named(made: list[Record]) -> None:
    content = json.loads(made[0].text())
    content["victim"]["rank"] = 1
    with pytest.raises(BadRecord, match=r"r.json, victim.rank"):
        parse_record(content, "r.json")


def test_a_run_without_results_or_bands_is_refused(finished: Any, copied: Path, make_plan: Any, tmp_path: Path) -> None:
    from sidebench.benchmark.results.run_folder import read_run
    from sidebench.benchmark.runs import runner

    with pytest.raises(UnknownName, match="attack of this run"):
        make_records(finished.folder, "somebody", ["sied"])
    (copied / "metrics.json").unlink()
    with pytest.raises(BadInput, match="no results"):
        make_records(read_run(copied), "somebody")
    rms = runner.execute(make_plan(tmp_path / "rms", attacks=("carlini-uncond",), measures=("rms",)))
    with pytest.raises(BadInput, match="no fixed bands"):
        make_records(rms.folder, "somebody")


def test_the_command_names_every_setting(finished: Any, made: list[Record]) -> None:
    import shlex

    words = shlex.split(made[2].command)
    assert words[:3] == ["sidebench", "run", "digits"] and "\n" not in made[2].command
    assert f"side.clusters={made[2].claim.settings['clusters']}" in words
    assert sum(word.startswith("side.") for word in words) == len(made[2].claim.settings)
    assert read_json(finished.folder.manifest_file)["units"]["side.s0"]["access"] == made[2].claim.access == "white box"


def test_the_command_names_only_defences_that_an_option_puts_around_a_model() -> None:
    defences = {"training:early-stopping": {"stop_after": 3}, "amg": {"strength": 2.0}}
    made = command("mine/pair.yaml", {}, defences, 8, [0], ["rms"])
    assert "--defence amg" in made and "--set amg.strength=2.0" in made and "early-stopping" not in made
