"""Wrong use ends in one line that names the thing, in code 2, and leaves nothing behind."""

from collections.abc import Callable
from pathlib import Path

import pytest
from complaints import complaints

from sidebench.benchmark.data.pair import FOLDER

Call = Callable[..., tuple[int, str, str]]


REFUSED = {
    "run digit": ["unknown pair 'digit'", "digits or digits-clean"],
    "run digits digit": ["unknown pair 'digit'"],
    "run digits --attack sid": ["unknown attack 'sid'", "did you mean side or side-walk or side-lora?"],
    "run digits --attack zzzzz": ["unknown attack 'zzzzz'", "carlini-uncond"],
    "run digits --colour 1": ["--colour"],
    "run digits --set side.cluster=3": ["unknown setting of side 'cluster'", "did you mean clusters?"],
    "run digits --measure nl3:n50": ["unknown measure 'nl3'", "did you mean nl2"],
    "run digits --measure nl2:n50:q3": ["'nl2:n50:q3'", "unknown option 'q'"],
    "run digits --measure nl2:nx": ["'nl2:nx'"],
    "run digits --measure nl2:n0": ["n must be at least 1"],
    "run digits --measure rms:4": ["takes no options"],
    "run digits --measure nl2:n500": ["nl2:n500:a0.5", "256 images"],
    "run tiny.yaml --candidates 4 --measure nl2:n60": ["n60", "50"],
    "run digits-clean --measure nl2:n71": ["allow_dense_neighbours"],
    "run digits --tier quik": ["unknown tier 'quik'", "did you mean quick?"],
    "run digits --defence ghost": ["unknown defence 'ghost'"],
    "run digits --defense ghost": ["unknown defence 'ghost'"],
    "run digits --track trackoi": ["unknown tracker 'trackoi'", "did you mean trackio?"],
    "run digits --secret-seeds 3 --track trackio": ["--track sends the seeds", "--secret-seeds"],
    "run digits --workers 2": ["--workers belongs to --engine"],
    "run digits --engine dask": ["--engine dask: there is ray, or ray:ADDRESS"],
    "tune digits --attack side --workers 2": ["--workers belongs to --engine"],
    "tune digits --attack side --engine dask": ["--engine dask: there is ray, or ray:ADDRESS"],
    "ablate digits --workers 2": ["--workers belongs to --engine"],
    "ablate digits --engine dask": ["--engine dask: there is ray, or ray:ADDRESS"],
    "gate digits --policy example --workers 2": ["--workers belongs to --engine"],
    "gate digits --policy example --engine dask": ["--engine dask: there is ray, or ray:ADDRESS"],
    "run digits --engine ray --plan-only": ["--engine belongs to the run itself"],
    "run digits --set plain-tuned.steps=7": ["'plain-tuned', which is not run"],
    "worker nowhere": ["nowhere"],
    "score-images nowhere": ["a PAIR, or --dataset, --split and --holdout"],
    "score-images nowhere digits": ["no such folder of images: nowhere"],
    "score-images nowhere digits --control iid": ["--control goes with --model and --dataset"],
    "run digits --attack as-given": ["as-given scores images that exist already: give --model images:PATH"],
    "run digits --model=": ["a model without a name: name a folder, OWNER/NAME"],
    "run --model a/b --dataset= --split x": ["--dataset has no name behind it"],
    "run --model a/b --dataset c/d --split=": ["--split has no name behind it"],
    "run digits --attack side-queries": ["side-queries works on models with conditioning text, not none"],
    "list pair": ["unknown kind 'pair'", "did you mean pairs?"],
    "show digit": ["'digit'", "did you mean digits"],
    "train digit": ["unknown pair 'digit'"],
    "bench digit": ["unknown pair 'digit'"],
    "bench --small": ["--small and --out go with --accelerator"],
    "bench --accelerator --device cpu": ["no accelerator here", "--small"],
    "run digits --candidates -1": ["candidates must be at least 1, was -1"],
    "run digits --candidates 0": ["candidates must be at least 1, was 0"],
    "run digits --candidates many": ["--candidates", "integer"],
    "run digits --candidates 1.5": ["--candidates", "integer"],
    "run digits --tier smoke --candidates 4": ["--tier or --candidates"],
    "run digits --seed -1": ["seed must not be negative, was -1"],
    "run digits --seed one": ["--seed", "integer"],
    "run digits --set clusters": ["'clusters'", "ATTACK.KEY=VALUE"],
    "run digits --set side.clusters": ["ATTACK.KEY=VALUE"],
    "run digits --set clusters=3": ["ATTACK.KEY=VALUE"],
    "run digits --set =3": ["ATTACK.KEY=VALUE"],
    "run digits --set side.clusters=[1": ["'[1' cannot be read"],
    "run digits --attack carlini-uncond --set side.clusters=3": ["'side', which is not run"],
    "run digits --set side.clusters=1": ["side.clusters = 1", "greater than or equal to 2"],
    "run digits --set side.clusters=many": ["side.clusters = 'many'", "integer"],
    "run digits --set side.clusters=2.5": ["side.clusters = 2.5"],
    "run digits --set side.learning_rate=.nan": ["side.learning_rate", "finite"],
    "run digits --set side.learning_rate=0": ["side.learning_rate", "greater than 0"],
    "run digits --set side.features=pixel": ["side.features = 'pixel'", "none of pixels, pca, network"],
    "run digits --set side.features=sscd": ["sscd", "sidebench fetch"],
    "run digits --set side.blocks=3": ["side.blocks = 3"],
    "run tiny.yaml --candidates 4 --set side.blocks=[]": ["side.blocks"],
    "run tiny.yaml --candidates 4 --set side.blocks=[0]": ["side.blocks"],
    "run tiny.yaml --candidates 4 --out regular/runs": ["cannot write to regular/runs", "--out"],
    "run tiny.yaml --candidates 4 --out regular": ["cannot write to regular", "--out"],
    "run missing.yaml": ["no such pair file: missing.yaml"],
    "run digits --device cuda:99": ["no device 'cuda:99'", "cpu"],
    "run digits --device toaster": ["no device 'toaster'"],
    "run digits --dtype float8": ["float8"],
    "run digits --control iid": ["--control goes with --model and --dataset", "control"],
    "plan digits --variant fp16": ["--variant goes with --model and --dataset", "model.variant"],
    "fetch tiny.yaml --dataset-config en": ["--dataset-config goes with --model and --dataset", "data.config"],
    "run --config none.yaml": ["config none.yaml: No such file"],
    "run --config words.yaml": ["words.yaml holds no options", "pair: digits"],
    "run --config misspelt.yaml": ["misspelt.yaml, candidate: no such key", "did you mean candidates"],
    "run --config many.yaml": ["many.yaml, candidates: ", "integer"],
    "run --config twice.yaml": ["config twice.yaml, line 2: pair stands twice"],
    "run --config few.yaml --candidates 0": ["candidates must be at least 1, was 0"],
    "run --config few.yaml --attack side --set carlini-cond.clusters=3": ["'carlini-cond', which is not run"],
    "run --model zoo:digits --dataset . --split a --control iid": ["control iid needs a held-out split (--holdout)"],
    "run --model zoo:digits --dataset . --split a --holdout b --control fair": ["control fair", "iid or surrogate"],
    "run --model ./nomodel --dataset . --split a": ["no such folder of a model: ./nomodel"],
    "run --model zoo:digits --dataset tiny.yaml --split a": ["tiny.yaml is a file: name the folder"],
    "report .": ["is no run folder"],
    "report missing": ["missing is no run folder"],
    "report regular": ["regular is no run folder"],
    "compare missing other": ["missing is no run folder"],
    "compare": ["RUN RUN"],
    "run digits --attack attacks.py:Missing": ["'Missing'", "attacks.py", "Mine"],
    "run digits --attack attacks.py:mine": ["did you mean Mine?"],
    "run digits --attack attacks.py:Other": ["attacks.py:Other"],
    "run digits --attack none.py:Mine": ["no such file: none.py"],
    "show attacks.py:Missing": ["'Missing'"],
    "train digits --out regular": ["regular exists already"],
    "run": ["PAIR"],
    "nosuch": ["nosuch"],
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_wrong_use_is_one_line_and_code_2(arguments: str, here: Path, call: Call) -> None:
    before = sorted(here.rglob("*"))
    code, out, err = call(*arguments.split())
    assert (code, out) == (2, "")
    (line,) = complaints(err)
    assert line.startswith("sidebench: ")
    for words in REFUSED[arguments]:
        assert words in line
    assert [path for path in sorted(here.rglob("*")) if "__pycache__" not in path.parts] == before


@pytest.mark.parametrize("arguments", ["run", "nosuch", "run digits --candidates x"])
def test_nothing_heavy_is_loaded_for_a_typing_error(arguments: str, call: Call) -> None:
    assert "loading" not in call(*arguments.split())[2]


BASE = FOLDER / "digits.yaml"
CORRUPT: dict[str, tuple[Callable[[str], bytes], list[str]]] = {
    "not YAML": (lambda text: b"name: [x\n - {", ["not YAML", "line 2"]),
    "unknown key": (lambda text: (text + "colour: red\n").encode(), ["colour"]),
    "unknown key inside": (lambda text: text.replace("pool: 512", "pol: 512").encode(), ["data.split.po"]),
    "wrong type": (lambda text: text.replace("revision: 1", "revision: soon").encode(), ["revision", "integer"]),
    "wrong choice": (lambda text: text.replace("control: iid", "control: some").encode(), ["control"]),
    "bad name": (lambda text: text.replace("name: digits", "name: Di Gits").encode(), ["name"]),
    "missing key": (lambda text: text.replace("licence:", "# licence:").encode(), ["licence"]),
    "empty": (lambda text: b"", ["holds no settings"]),
    "a list": (lambda text: b"- a\n", ["holds no settings"]),
    "binary": (lambda text: bytes(range(256)), ["not YAML"]),
    "numbers as keys": (lambda text: f"1: 2\n{text}".encode(), ["keys must be names"]),
    "no such zoo model": (lambda text: text.replace("zoo:digits", "zoo:nothing").encode(), ["zoo:nothing"]),
    "other hash": (lambda text: text.replace("bffc7812", "00000000").encode(), ["SHA-256"]),
    "bad sampler": (lambda text: f"{text}protocol: {{sampler: {{steps: 0}}}}\n".encode(), ["steps"]),
    "unknown sampler": (lambda text: f"{text}protocol: {{sampler: {{name: plms}}}}\n".encode(), ["sampler"]),
}


@pytest.mark.parametrize("fault", CORRUPT)
def test_corrupt_pair_file_is_refused(fault: str, here: Path, call: Call) -> None:
    make, wanted = CORRUPT[fault]
    (here / "corrupt.yaml").write_bytes(make(BASE.read_text(encoding="utf-8")))
    code, out, err = call("run", "corrupt.yaml", "--candidates", 4, "--attack", "carlini-uncond")
    assert (code, out) == (2, ""), err
    (line,) = complaints(err)
    assert line.startswith("sidebench: ") and all(words in line for words in wanted)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (["side.cohesion=1.0"], ["0 of 3 clusters", "cohesion = 1.0", "two are needed"]),
        (["side.clusters=25"], ["clusters = 25 of 24 synthetic images"]),
    ],
)
def test_impossible_clusters_are_refused(settings: list[str], wanted: list[str], here: Path, call: Call) -> None:
    options = [part for setting in settings for part in ("--set", setting)]
    code, _, err = call("run", "tiny.yaml", "--candidates", 4, "--attack", "side", *options)
    assert code == 2
    (line,) = complaints(err)
    assert line.startswith("sidebench: ") and all(words in line for words in wanted)
