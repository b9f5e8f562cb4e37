"""The command line over a stubbed API: what is passed on, what is printed where, how it ends."""

from __future__ import annotations

import errno
import io
import json
import shlex
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stitchsafe
from stitchsafe.cli import main
from stitchsafe.errors import (
    IntegrityError,
    InterruptedRunError,
    MissingExtraError,
    PlanError,
    StitchsafeError,
    UnsafeNetworkError,
    VolumeError,
)

VERBS = ("predict", "plan", "check", "verify", "evaluate", "export", "train", "demo")
PREDICTED = {
    "out": "out.zarr",
    "blocks_total": 12,
    "blocks_done": 3,
    "blocks_resumed": 9,
    "instances": 1042,
    "seconds": 2.0,
    "voxels_per_second": 1e6,
    "peak_memory_bytes": 5e8,
    "exact": True,
    "missing_blocks": 0,
    "breaks": [],
    "seams": None,
    "rounding": {},
}
LINES = {
    "predict": ["predict", "volume.zarr"],
    "plan": ["plan", "volume.zarr"],
    "check": ["check", "disks-2d"],
    "verify": ["verify", "out.zarr"],
    "evaluate": ["evaluate", "a.zarr", "b.zarr"],
    "export": ["export", "out.zarr", "--to", "csv"],
    "train": ["train", "config.yaml"],
    "demo": ["demo"],
}


@dataclass
class Answer:
    values: dict[str, Any] = field(default_factory=lambda: dict(PREDICTED))
    safe: bool = True
    ok: bool = True
    equal: bool = True
    rank: int = 0

    def to_json(self) -> dict[str, Any]:
        return self.values


@dataclass
class Ended:
    code: int
    out: str
    err: str


@dataclass
class Calls:
    """What the stubbed API was called with; `behave` is what it does."""

    made: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    behave: Callable[..., Any] = field(default=lambda *_, **__: Answer())

    @property
    def last(self) -> dict[str, Any]:
        return self.made[-1][2]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()

    def stub(verb: str) -> Callable[..., Any]:
        def called(*arguments: Any, **keywords: Any) -> Any:
            calls.made.append((verb, arguments, keywords))
            return calls.behave(*arguments, **keywords)

        return called

    for verb in VERBS:
        monkeypatch.setitem(vars(stitchsafe), verb, stub(verb))
    return calls


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[[Sequence[str]], Ended]:
    def run(words: Sequence[str]) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main(words)
        captured = capsys.readouterr()
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return run


Run = Callable[[Sequence[str]], Ended]


def raising(error: BaseException) -> Callable[..., Any]:
    def behave(*_: Any, **__: Any) -> Any:
        raise error

    return behave


def one_line(ended: Ended) -> str:
    assert ended.out == ""
    assert ended.err.endswith("\n")
    assert ended.err.count("\n") == 1
    assert ended.err.startswith("stitchsafe: error: ")
    return ended.err


def test_only_what_was_given_is_passed_on(api: Calls, run: Run) -> None:
    assert run(["predict", "volume.zarr"]).code == 0
    verb, arguments, keywords = api.made[-1]
    assert (verb, arguments) == ("predict", ("volume.zarr", None, None))
    del keywords["events"]
    assert keywords == {
        "save": ("labels",),
        "ngff": "0.5",
        "image": "link",
        "overwrite": False,
        "accept_inexact": False,
        "skip_postprocessing": False,
        "trust_model": False,
        "refuse_missing_chunks": False,
        "mask_voxels": False,
    }


def test_every_option_of_predict_arrives_parsed(api: Calls, run: Run) -> None:
    words = shlex.split(
        "predict file.h5:raw -m neurites-em -o out.zarr --save labels,fields --ngff 0.4 "
        "--overwrite --labels-from foreground --bandwidth 1.5 --bandwidth-quantile 0.1 "
        "--kernel gaussian --clusters volume "
        "--field-type fp16 --min-size 100 "
        "--tile-shape 64,128,128 --block-shape 128,512,512 --max-memory 1.5GB --border edge "
        "--normalize zscore --device cpu --precision float64 --seed 7 --threads 2 "
        "--roi 0:64,128:512,: --level 1 --channel 2 --time 3 --axes zyx "
        "--voxel-size 10,10,10nm --nan zero --refuse-missing-chunks --quiet "
        "--repair --mask mask.tif --mask-voxels --chunk-shape 32,64,64 "
        "--image copy --foreground-threshold 0.6 --accept-inexact --skip-postprocessing "
        "--trust-model"
    )
    assert run(words).code == 0
    _, arguments, keywords = api.made[-1]
    assert arguments == ("file.h5:raw", "neurites-em", "out.zarr")
    del keywords["events"]
    assert keywords == {
        "save": ("labels", "fields"),
        "ngff": "0.4",
        "image": "copy",
        "overwrite": True,
        "repair": True,
        "mask": "mask.tif",
        "chunk_shape": (32, 64, 64),
        "labels_from": "foreground",
        "bandwidth": 1.5,
        "bandwidth_quantile": 0.1,
        "kernel": "gaussian",
        "clusters": "volume",
        "field_type": "fp16",
        "min_size": 100,
        "tile_shape": (64, 128, 128),
        "block_shape": (128, 512, 512),
        "max_memory": 1_500_000_000,
        "border": "edge",
        "normalize": "zscore",
        "device": "cpu",
        "precision": "float64",
        "seed": 7,
        "threads": 2,
        "accept_inexact": True,
        "skip_postprocessing": True,
        "trust_model": True,
        "foreground_threshold": 0.6,
        "roi": ((0, 64), (128, 512), (None, None)),
        "level": 1,
        "channel": 2,
        "time": 3,
        "axes": "zyx",
        "voxel_size": "10,10,10nm",
        "nan": "zero",
        "refuse_missing_chunks": True,
        "mask_voxels": True,
    }


def test_plan_takes_the_same_options(api: Calls, run: Run) -> None:
    assert run(["plan", "v.zarr", "-m", "m", "--max-memory", "8GiB", "--roi", ":,0:8,:"]).code == 0
    assert api.made[-1][1] == ("v.zarr", "m")
    assert api.last["max_memory"] == 8 * 2**30
    assert api.last["roi"] == ((None, None), (0, 8), (None, None))


def test_evaluate_passes_thresholds(api: Calls, run: Run) -> None:
    assert run(["evaluate", "a.tif", "b.h5:labels", "--thresholds", "0.5,0.9"]).code == 0
    assert api.made[-1][:2] == ("evaluate", ("a.tif", "b.h5:labels"))
    assert api.last.pop("events") is not None
    assert api.last == {"thresholds": (0.5, 0.9)}
    run(["evaluate", "a.tif", "b.h5:labels", "--grid", "64,96"])
    assert api.last.pop("events") is not None
    assert api.last == {"grid": (64, 96)}
    run(["evaluate", "a.tif", "b.h5:labels", "--grid", "auto"])
    assert api.last["grid"] == "auto"


@pytest.mark.parametrize(("flag", "value"), [("--parts", True), ("--no-parts", False)])
def test_predict_passes_what_classes_become(api: Calls, run: Run, flag: str, value: bool) -> None:
    run(["predict", "volume.zarr", "--labels-from", "argmax", flag])
    assert (api.last["labels_from"], api.last["parts"]) == ("argmax", value)
    run(["predict", "volume.zarr"])
    assert "parts" not in api.last
    api.behave = lambda *_, **__: Answer({**PREDICTED, "instances": None, "classes": 5})
    assert "a map of 5 classes in out.zarr" in run(["predict", "volume.zarr", flag]).out


def test_export_passes_forms_and_place(api: Calls, run: Run) -> None:
    words = ["export", "out.zarr", "--to", "tiff, csv", "-o", "there", "--overwrite"]
    assert run([*words, "--max-memory", "2GB"]).code == 0
    verb, arguments, keywords = api.made[-1]
    assert (verb, arguments) == ("export", ("out.zarr", ["tiff", "csv"], "there"))
    assert keywords.pop("events") is not None
    assert keywords == {"overwrite": True, "max_memory": 2 * 10**9}


def test_train_passes_its_options(api: Calls, run: Run) -> None:
    words = ["train", "disks", "-o", "run", "--data", "d.h5", "--overwrite"]
    words += ["--init", "w", "--device", "cuda:0,1", "--trust-model"]
    assert run(words).code == 0
    verb, arguments, keywords = api.made[-1]
    del keywords["events"]
    assert (verb, arguments) == ("train", ("disks", "run"))
    assert keywords == {
        "data": "d.h5", "steps": None, "overwrite": True, "init": "w", "device": "cuda:0,1",
        "trust_model": True,
    }  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_json_is_one_object_on_stdout_whatever_else_is_said(
    verb: str, api: Calls, run: Run
) -> None:
    def behave(*_: Any, events: Any = None, **__: Any) -> Answer:
        print("a library that talks")
        if events is not None:
            events.say("the model is neurites-em")
            events.stage("predict", 3, "blocks")
            events.advance(2)
        return Answer()

    api.behave = behave
    ended = run([*LINES[verb], "--json"])
    assert ended.code == 0
    assert json.loads(ended.out) == PREDICTED
    assert "a library that talks" in ended.err
    assert "\x1b" not in ended.out + ended.err


def test_json_knows_arrays_paths_and_what_is_not_a_number(api: Calls, run: Run) -> None:
    values = {
        "period": np.array([8, 8]),
        "one": np.float32(0.5),
        "many": np.int64(2**40),
        "yes": np.bool_(True),
        "score": float("nan"),
        "out": Path("a.zarr"),
        "ap": {0.5: 1.0},
        "context": ((1, 2),),
    }
    api.behave = lambda *_, **__: Answer(values)
    assert json.loads(run(["verify", "out.zarr", "--json"]).out) == {
        "period": [8, 8],
        "one": 0.5,
        "many": 2**40,
        "yes": True,
        "score": None,
        "out": "a.zarr",
        "ap": {"0.5": 1.0},
        "context": [[1, 2]],
    }


def test_what_is_not_json_is_refused_rather_than_guessed(api: Calls, run: Run) -> None:
    api.behave = lambda *_, **__: Answer({"module": object()})
    ended = run(["verify", "out.zarr", "--json"])
    assert ended.out == ""
    assert ended.code == 3
    assert "has no form in JSON" in ended.err


def test_people_read_the_description_or_the_keys(api: Calls, run: Run) -> None:
    api.behave = lambda *_, **__: Answer({"voi_split": 0.123456, "n_true": 7, "ap": {0.5: 1.0}})
    assert run(["evaluate", "a", "b"]).out == (
        'voi_split  0.1235\nn_true     7\nap         {"0.5": 1.0}\n'
    )

    class Described(Answer):
        def describe(self) -> str:
            return "safe: period 8, context 20"

    api.behave = lambda *_, **__: Described()
    assert run(["check", "disks-2d"]).out == "safe: period 8, context 20\n"


def test_people_read_what_came_out_and_where(api: Calls, run: Run) -> None:
    shown = run(["predict", "volume.zarr"]).out
    assert "1,042 instances in out.zarr" in shown
    assert "3 of 12 blocks in 2.0 s, 9 more were done before; 0.50 GB" in shown
    assert "stitched equals whole" in shown
    broken = {"layer": "enc.1", "op": "aten.mean", "reason": "it averages", "fix": "do not"}
    seams = {"seams": 4, "elements": 3200, "max_abs_diff": 0.0123, "max_abs_value": 4.56}
    inexact = {"exact": False, "breaks": [broken], "seams": seams, "instances": None}
    api.behave = lambda *_, **__: Answer({**PREDICTED, **inexact})
    shown = run(["predict", "volume.zarr"]).out
    assert "fields in out.zarr" in shown
    assert "NOT exact" in shown
    assert "enc.1 (aten.mean): it averages" in shown
    assert "3,200 elements at 4 seams differ by up to 0.012 (largest value 4.6)" in shown


def test_a_dry_run_is_rehearsed(api: Calls, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def rehearse(volume: str, model: str | None, out: str | None, **options: Any) -> Answer:
        given.update(options, out=out)
        return Answer()

    monkeypatch.setattr("stitchsafe.pipeline.rehearse", rehearse)
    words = ["predict", "volume.zarr", "--dry-run", "--min-size", "5", "-o", "out.zarr"]
    assert run(words).code == 0
    assert api.made == []
    assert (given["min_size"], given["out"]) == (5, "out.zarr")


def test_verify_can_be_told_where_things_are_now(api: Calls, run: Run) -> None:
    words = ["verify", "out.zarr", "--volume", "v.zarr", "-m", "folder", "--mask", "m.npy"]
    assert run(words).code == 0
    verb, arguments, keywords = api.made[-1]
    del keywords["events"]
    assert (verb, arguments) == ("verify", ("out.zarr",))
    assert keywords == {
        "volume": "v.zarr", "model": "folder", "trust_model": False, "mask": "m.npy"
    }  # fmt: skip


def test_decisions_are_said_on_stderr_and_no_bar_is_drawn_off_a_terminal(
    api: Calls, run: Run
) -> None:
    def behave(*_: Any, events: Any, **__: Any) -> Answer:
        events.stage("predict", 3, "blocks")
        events.say("the memory is 8.0 GB, this machine's")
        events.advance(3)
        return Answer()

    api.behave = behave
    assert run(["predict", "v.zarr"]).err == "stitchsafe: the memory is 8.0 GB, this machine's\n"
    assert run(["predict", "v.zarr", "--quiet"]).err == ""


def test_the_answer_goes_to_stdout_though_a_bar_is_on_the_terminal(
    api: Calls, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def behave(*_: Any, events: Any, **__: Any) -> Answer:
        events.stage("predict", 3, "blocks")
        print("a library that talks")
        return Answer()

    api.behave = behave
    monkeypatch.setenv("TERM", "xterm")
    with redirect_stderr(Terminal()) as screen:
        ended = run(["predict", "v.zarr"])
    assert "1,042 instances" in ended.out
    assert "0/3" in screen.getvalue()
    assert "a library that talks" in screen.getvalue()
    assert "instances" not in screen.getvalue()


def test_no_is_exit_code_1_with_the_answer_printed(api: Calls, run: Run) -> None:
    api.behave = lambda *_, **__: Answer({"verdict": "unsafe"}, safe=False, ok=False, equal=False)
    for verb in ("check", "verify", "demo"):
        ended = run([*LINES[verb], "--json"])
        assert ended.code == 1
        assert json.loads(ended.out) == {"verdict": "unsafe"}
        assert ended.err == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (VolumeError("there is no volume 'x.zarr';\n  give a path"), 2),
        (PlanError("the tile is too small"), 2),
        (UnsafeNetworkError("layer 'a' has instance norm"), 2),
        (MissingExtraError("onnxruntime", "onnx"), 2),
        (StitchsafeError("wrong"), 2),
        (IntegrityError("chunk 3 is not what was written"), 1),
        (InterruptedRunError("stopped"), 3),
        (KeyboardInterrupt(), 3),
        (OSError(errno.ENOSPC, "No space left on device", "out.zarr/c/0"), 3),
        (MemoryError(), 3),
        (ZeroDivisionError("division by zero"), 3),
    ],
)
@pytest.mark.parametrize("verb", VERBS)
def test_each_error_is_one_line_and_its_code(
    error: BaseException, code: int, verb: str, api: Calls, run: Run
) -> None:
    api.behave = raising(error)
    ended = run(LINES[verb])
    line = one_line(ended)
    assert ended.code == code
    assert "Traceback" not in line
    assert " ".join(str(error).split()).replace("[Errno 28] ", "")[:10] in line or code == 3


def test_interrupted_and_disk_full_say_that_it_goes_on(api: Calls, run: Run) -> None:
    api.behave = raising(KeyboardInterrupt())
    assert "interrupted; run the same command again" in one_line(run(["predict", "v.zarr"]))
    api.behave = raising(OSError(errno.ENOSPC, "No space left on device", "out.zarr/c/0"))
    line = one_line(run(["predict", "v.zarr"]))
    assert "out.zarr/c/0" in line
    assert "the same command goes on" in line


def test_a_traceback_only_with_debug(api: Calls, run: Run) -> None:
    api.behave = raising(VolumeError("there is no volume"))
    assert "Traceback" not in run(["predict", "v.zarr"]).err
    ended = run(["predict", "v.zarr", "--debug"])
    assert "Traceback" in ended.err
    assert ended.err.splitlines()[-1] == "stitchsafe: error: there is no volume"
    assert ended.code == 2


@pytest.mark.parametrize(
    "words",
    [
        ["frobnicate"],
        ["predict"],
        ["predict", "v.zarr", "--frob"],
        ["predict", "v.zarr", "--border", "mirror"],
        ["predict", "v.zarr", "--level", "one"],
        ["predict", "v.zarr", "--level", "-1"],
        ["predict", "v.zarr", "--tile-shape", "64,x"],
        ["predict", "v.zarr", "--max-memory", "lots"],
        ["predict", "v.zarr", "--roi", "5"],
        ["predict", "v.zarr", "--save", "seams"],
        ["predict", "v.zarr", "--no-json"],
        ["plan", "v.zarr", "--block-shape", "0,1,1"],
        ["evaluate", "a.zarr"],
        ["evaluate", "a.zarr", "b.zarr", "--thresholds", "high"],
        ["--frob"],
    ],
)
def test_what_cannot_be_read_is_one_line_code_2_and_calls_nothing(
    words: list[str], api: Calls, run: Run
) -> None:
    ended = run(words)
    one_line(ended)
    assert ended.code == 2
    assert api.made == []


def test_version_and_help(api: Calls, run: Run) -> None:
    ended = run(["--version"])
    assert (ended.code, ended.out) == (0, f"stitchsafe {stitchsafe.__version__}\n")
    for words in ([], ["--help"], *([verb, "-h"] for verb in VERBS)):
        ended = run(words)
        assert ended.code == 0
        assert "Usage: stitchsafe" in ended.out
    assert api.made == []


def test_help_is_read_as_it_was_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Help passes through a markup in which ``:word:`` may be a picture, and ``[word]`` a style."""
    from rich.text import Text
    from typer.main import get_command

    from stitchsafe.cli.app import app

    commands = get_command(app).commands.values()
    texts = [(c.name, c.help) for c in commands]
    texts += [(f"{c.name} {p.name}", getattr(p, "help", None)) for c in commands for p in c.params]
    assert len(texts) > 80
    for where, text in texts:
        assert Text.from_markup(text or "").plain == (text or ""), where
    monkeypatch.setenv("COLUMNS", "250")
    for verb in VERBS:
        shown = run([verb, "--help"]).out
        assert not any(0x2600 <= ord(letter) < 0x2C00 or ord(letter) > 0xFFFF for letter in shown)
    assert (
        "Weights for package.module:factory, as safetensors or .pth"
        in run(["predict", "--help"]).out
    )
