"""Everything that README and docs show is run.

The fenced ``bash`` and ``python`` blocks of a document are run in their order, in one empty folder
that holds the files which documents speak of (see `the_readers_files`). A comment just before a
block changes that::

    <!-- run: slow -->      only with the slow tests
    <!-- run: no, WHY -->   never; the reason is for readers of the source

Blocks in other languages (``text``, ``yaml``, ``console``) are shown only.
"""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from servers import Bucket
from zygote import Zygote

from stitchsafe.volumes import Place

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = (
    "README.md",
    "docs/guide.md",
    "docs/training.md",
    "docs/theory.md",
    "docs/seams.md",
    "docs/layers.md",
    "docs/json.md",
    "docs/places.md",
    "docs/faults.md",
    "docs/workers.md",
    "docs/performance.md",
    "docs/napari.md",
    "CONTRIBUTING.md",
)
BLOCK = re.compile(
    r"(?:^<!-- run: (?P<how>[^\n]*?) -->\n+)?^```(?P<language>bash|python)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    document: str
    line: int
    language: str
    code: str
    how: str

    @property
    def is_slow(self) -> bool:
        return self.how == "slow"

    @property
    def is_run(self) -> bool:
        return not self.how.startswith("no, ")


def blocks_of(document: str) -> list[Block]:
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    return [
        Block(
            document,
            text[: found.start("code")].count("\n") + 1,
            found["language"],
            found["code"],
            found["how"] or "",
        )
        for found in BLOCK.finditer(text)
    ]


@dataclass(frozen=True)
class Programs:
    """A folder with the program under test, and a Python; both start soon."""

    folder: Path
    zygote: Zygote


@pytest.fixture(scope="session")
def programs(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Programs:
    folder = tmp_path_factory.mktemp("bin")
    zygote.program(folder / "stitchsafe")
    for model in ("neurites-em", "disks-2d"):
        zygote.learn(model)
    return Programs(folder, zygote)


def run(block: Block, folder: Path, programs: Programs) -> None:
    """Run a block as its reader would, the program being the one under test."""
    places = (programs.folder, Path(sys.executable).parent, os.environ["PATH"])
    environment = {
        **os.environ,
        "PATH": os.pathsep.join(map(str, places)),
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "2",
    }
    code = block.code.replace("make demo", "stitchsafe demo")
    if block.language == "python":
        with programs.zygote.start_python("-c", code, cwd=folder, **environment) as python:
            output, errors = python.communicate()
    else:
        done = subprocess.run(
            ["bash", "-euc", code],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=1800,
        )  # fmt: skip
        output, errors, python = done.stdout, done.stderr, done
    assert python.returncode == 0, (
        f"{block.document}:{block.line} failed\n{block.code}\n{output}\n{errors}"
    )


@pytest.fixture
def the_readers_files(tmp_path: Path) -> Path:
    """A folder with the files that the documents speak of."""
    from reader_files import write_files

    write_files(tmp_path, REPOSITORY)
    return tmp_path


def test_every_instruction_is_known() -> None:
    for document in DOCUMENTS:
        for block in blocks_of(document):
            assert block.how in ("", "slow") or not block.is_run, f"{document}:{block.line}"
        text = (REPOSITORY / document).read_text(encoding="utf-8")
        assert text.count("<!-- run:") == sum(bool(block.how) for block in blocks_of(document))


@pytest.fixture
def the_readers_bucket(bucket: Bucket, the_readers_files: Path) -> None:
    """The volume in the bucket that the documents speak of."""
    connection = http.client.HTTPConnection(bucket.server.removeprefix("http://"))
    connection.request("PUT", "/lab")
    assert connection.getresponse().status == 200
    volume = the_readers_files / "volume.zarr"
    for file in (path for path in volume.rglob("*") if path.is_file()):
        place = Place.of("s3://lab/volume.zarr") / file.relative_to(volume).as_posix()
        place.write_bytes(file.read_bytes())


@pytest.mark.usefixtures("the_readers_bucket")
def test_what_is_shown_of_places_runs(the_readers_files: Path, programs: Programs) -> None:
    blocks = blocks_of("docs/places.md")
    assert len(blocks) == 2
    for block in blocks:
        run(block, the_readers_files, programs)


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d != "docs/places.md"])
def test_what_is_shown_runs(document: str, the_readers_files: Path, programs: Programs) -> None:
    for block in blocks_of(document):
        if block.is_run and not block.is_slow:
            run(block, the_readers_files, programs)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if any(block.is_slow for block in blocks_of(d))]
)
def test_what_is_shown_runs_the_slow_ones_too(
    document: str, the_readers_files: Path, programs: Programs
) -> None:
    for block in blocks_of(document):
        if block.is_run:
            run(block, the_readers_files, programs)


def test_a_wrong_block_is_noticed(tmp_path: Path, programs: Programs) -> None:
    for language, code in (
        ("bash", "false\ntrue\n"),
        ("bash", "stitchsafe check nothing-of-that-name\ntrue\n"),
        ("python", "import nothing_of_that_name\n"),
    ):
        with pytest.raises(AssertionError, match=r"README.md:7 failed"):
            run(Block("README.md", 7, language, code, ""), tmp_path, programs)


@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md"])
def test_links_lead_somewhere(document: str) -> None:
    path = REPOSITORY / document
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith(("http", "#", "mailto:")):
            assert (path.parent / target.partition("#")[0]).exists(), f"{document}: {target}"
