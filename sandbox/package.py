"""Build the sdist and the wheel into dist/, and check them: ``make package``.

Both are built twice, from two copies of the files that git knows, in other directories,
at other times and in other environments, and have to be the same bytes. The times in
them are that of the last commit, or ``SOURCE_DATE_EPOCH``.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"


class PackageError(Exception):
    """The distribution isn't what it has to be; the text says in what."""


def main() -> None:
    """Build twice, compare, check what is in the archives, and fill dist/."""
    files = git("ls-files", "-z").rstrip("\0").split("\0")
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or git("log", "-1", "--format=%ct")
    with tempfile.TemporaryDirectory(prefix="dbpool_mw-package-") as directory:
        first, second = Path(directory, "first"), Path(directory, "second", "build")
        built = build(files, first, epoch, TZ="UTC", PYTHONHASHSEED="1")
        again = build(files, second, epoch, TZ="Asia/Tokyo", PYTHONHASHSEED="2")
        for one, other in zip(built, again, strict=True):
            if one.name != other.name or one.read_bytes() != other.read_bytes():
                raise PackageError(f"Two builds of {one.name} differ.")
        check_contents(*built, files)
        shutil.rmtree(DIST, ignore_errors=True)
        DIST.mkdir()
        for archive in built:
            print(f"{shutil.copy(archive, DIST)}: {archive.stat().st_size} bytes")


def build(
    files: list[str], directory: Path, epoch: str, **environment: str
) -> tuple[Path, Path]:
    """Build a copy of these files; return the sdist, and the wheel made from it."""
    source, dist = directory / "source", directory / "dist"
    for name in files:
        copy = source / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy)
    env = {**os.environ, **environment, "SOURCE_DATE_EPOCH": epoch}

    def run(kind: str, where: Path) -> Path:
        words = [sys.executable, "-m", "build", f"--{kind}", "--outdir", dist, where]
        done = subprocess.run(
            words, env=env, umask=0o022, text=True, capture_output=True, check=False
        )
        if done.returncode:
            output = done.stdout + done.stderr
            raise PackageError(f"The {kind} can't be built:\n{output}")
        (archive,) = dist.glob("*.tar.gz" if kind == "sdist" else "*.whl")
        return archive

    sdist = run("sdist", source)
    normalise(sdist, int(epoch))
    with tarfile.open(sdist) as archive:
        # Python 3.11.2, Debian 12's, has no filters yet; extractall() ignores the name.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(directory)
    return sdist, run("wheel", directory / sdist.name.removesuffix(".tar.gz"))


def normalise(sdist: Path, epoch: int) -> None:
    """Write an sdist anew without what depends on the machine: times, owners, order.

    setuptools takes ``SOURCE_DATE_EPOCH`` for the wheel only.
    """
    with tarfile.open(sdist) as archive:
        members = [
            (member, archive.extractfile(member) if member.isfile() else None)
            for member in sorted(archive.getmembers(), key=lambda each: each.name)
        ]
        new = sdist.with_suffix(".new")
        with (
            new.open("wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=epoch) as zipped,
            tarfile.open(fileobj=zipped, mode="w", format=tarfile.GNU_FORMAT) as out,
        ):
            for member, content in members:
                member.mtime, member.uid, member.gid = epoch, 0, 0
                member.uname = member.gname = ""
                executable = member.isdir() or member.mode & 0o100
                member.mode = 0o755 if executable else 0o644
                out.addfile(member, content)
    new.replace(sdist)


def check_contents(sdist: Path, wheel: Path, files: list[str]) -> None:
    """Raise PackageError where an archive lacks a file, or has one that it shouldn't.

    The sdist has all that git knows, so that its tests run. The wheel has the package.
    """
    with tarfile.open(sdist) as archive:
        names = [each.name.partition("/")[2] for each in archive if each.isfile()]
    generated = ("PKG-INFO", "setup.cfg", "django_dbpool_mw.egg-info/")
    compare(
        sdist,
        {name for name in names if not name.startswith(generated)},
        set(files),
    )
    with zipfile.ZipFile(wheel) as archive_of_wheel:
        names = archive_of_wheel.namelist()
    metadata = "-".join(wheel.name.split("-")[:2]) + ".dist-info/"
    compare(
        wheel,
        {name for name in names if not name.startswith(metadata)},
        {name for name in files if name.startswith("dbpool_mw/")},
    )


def compare(archive: Path, found: set[str], expected: set[str]) -> None:
    """Raise PackageError, with the names, unless both sets are the same."""
    if found != expected:
        raise PackageError(
            f"{archive.name} lacks {sorted(expected - found)}, "
            f"and shouldn't have {sorted(found - expected)}."
        )


def git(*words: str) -> str:
    """Return what git prints for this checkout; raise PackageError without one."""
    if not (ROOT / ".git").exists():
        raise PackageError(f"{ROOT} isn't a git checkout: git knows what to package.")
    done = subprocess.run(
        ["git", *words], cwd=ROOT, text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise PackageError(f"git {words[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


if __name__ == "__main__":
    try:
        main()
    except PackageError as error:
        sys.exit(f"make package: {error}")
