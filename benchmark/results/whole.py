"""What a run goes on with is whole: a stored piece that was changed or cut is removed, so that it is rebuilt."""

import glob
from collections.abc import Collection, Iterator
from pathlib import Path

from ..errors import CorruptRun
from ..files import cannot_write, read_info, read_json, read_state, read_table
from ..progress import say
from .run_folder import RunFolder
from .shards import SAMPLES, shard_of

_READ = {".safetensors": read_state, ".parquet": read_table, ".json": read_json}


def is_whole(file: Path) -> bool:
    """Return whether a state, table or JSON file can be read and is what was written; all of it is read."""
    try:
        _READ[file.suffix](file)
    except CorruptRun:
        return False
    return True


def drop_damaged(folder: RunFolder, units: Collection[str]) -> None:
    """Read every stored piece of a run once and remove the damaged ones, in a line each; the folder must be locked.

    What was made from a piece goes before it, so that a call that is killed between leaves nothing that does not fit:
    the scores of images, and states whose samples are gone.

    Args:
        folder: The run.
        units: Those that this call makes.

    Raises:
        CorruptRun: a state or an image of a unit that this call does not make is damaged.
    """
    lost = [file for file in _pieces(folder) if not is_whole(file) or not _is_named_right(file)]
    # A worker may add a state meanwhile, and its samples before it: those that are seen have theirs.
    states = [file for file in folder.path.glob("state/*/state.safetensors") if file not in lost]
    samples = {file.stem for file in folder.shared_samples().folder.glob("*.safetensors") if file not in lost}
    orphans = [file for file in states if not samples.issuperset(read_info(file).get("cost", {}).get("samples", ()))]
    _refuse_others(folder, units, [*orphans, *lost])
    for file in orphans:
        say(f"{_name(folder, file)}: samples that it was made from are damaged; it is rebuilt")
        _remove(folder, file)
    for file in lost:
        say(f"{_name(folder, file)} was changed or cut; it is rebuilt")
        _remove(folder, file)


def _is_named_right(file: Path) -> bool:
    """Return whether images are those that their file's place and name say; older ones do not say it themselves."""
    if file.parent.parent.name != "images":
        return True
    info = read_info(file)
    numbers = shard_of(range(*info["numbers"])).name if "numbers" in info else file.stem
    return (info.get("unit", file.parent.name), numbers) == (file.parent.name, file.stem)


def _pieces(folder: RunFolder) -> Iterator[Path]:
    """Yield the files that a run goes on with; everything else it writes again in any case."""
    for part in ("state", "images", "scores"):
        yield from sorted(file for file in (folder.path / part).rglob("[!.]*") if file.suffix in _READ)
    yield from folder.path.glob("references.parquet")


def _refuse_others(folder: RunFolder, units: Collection[str], lost: Collection[Path]) -> None:
    """Refuse to go on where a unit of an earlier call has lost what only its own attack can make again."""
    known = (folder.manifest() or {"units": {}})["units"]
    for file in lost:
        kind, unit = file.relative_to(folder.path).parts[0], file.parent.name
        if kind in ("state", "images") and unit in known and unit not in units:
            own = known[unit]
            raise CorruptRun(
                f"{_name(folder, file)} was changed or cut, and this call does not make it: add "
                f"--attack {own['attack']} --seed {own['seed']}"
            )


def _remove(folder: RunFolder, file: Path) -> None:
    """Remove a piece, and before it what was made from it."""
    made = []
    if file.parent.parent.name == "images":
        made = _scores(folder, file.parent.name, file.stem)
    elif file.parent == folder.shared_samples().folder:
        made = _scores(folder, file.stem, SAMPLES.name)
    elif file.name == "state.safetensors":
        made = [folder.kept_file(file.parent.name)]
    for each in (*made, file):
        try:
            each.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(each, error) from None


def _scores(folder: RunFolder, name: str, shard: str) -> list[Path]:
    return list((folder.path / "scores").glob(f"{glob.escape(name)}.*.{shard}*.parquet"))


def _name(folder: RunFolder, file: Path) -> str:
    return file.relative_to(folder.path).as_posix()
