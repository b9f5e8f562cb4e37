"""The loop: resumed equals undisturbed, many devices equal one, and what stops it."""

from __future__ import annotations

import json
import random
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from heard import Heard
from safetensors.torch import load_file
from tiny_training import Stop, content, tiny
from zygote import Run, Zygote

import stitchsafe
from stitchsafe.errors import InputError, MissingExtraError, PlanError, StoreError
from stitchsafe.metrics import Scores
from stitchsafe.training import TrainingConfig, train
from stitchsafe.training._averages import averages_of
from stitchsafe.training._loop_config import OptimiserConfig
from stitchsafe.training._schedule import learning_rate


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "weights.safetensors")


def checkpoint(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(run / "checkpoint.pt", weights_only=True)
    return found


def same(a: Any, b: Any) -> bool:
    """Whether two nested states are equal bit for bit, but for times."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a if k != "seconds")
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def history(run: Path) -> list[dict[str, float]]:
    lines = (run / "history.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


EVERYTHING = content(
    optimiser={
        "steps": 40, "batch": 1, "accumulate": 2, "learning_rate": 0.003, "decay": "step",
        "milestones": [0.2, 0.4], "warmup": 3, "clip": 1.0, "ema": 0.9, "weight_decay": 0.01,
    },
    validation={"every": 6, "count": 1, "size": [32, 32], "patience": 2},
)  # fmt: skip
"""All that a resumed run could get wrong; it stops early, at step 18."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    result = stitchsafe.train(TrainingConfig.model_validate(EVERYTHING), run, device="cpu")
    assert result.stopped_early
    assert result.steps == 18
    assert result.best_step == 6
    return run


def test_killed_at_a_random_step_and_run_again(
    zygote: Zygote, tmp_path: Path, undisturbed: Path
) -> None:
    """A real process, SIGKILL; the weights, their averages and all else are the same bits."""
    seed = random.SystemRandom().randrange(10**6)
    lines = random.Random(seed).randrange(1, 9)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(EVERYTHING))
    run = tmp_path / "run"
    words = ["train", tmp_path / "train.yaml", "-o", run, "--device", "cpu"]
    with zygote.start(*words) as process:
        wait_for(process, run / "history.jsonl", lines)
        process.kill()
        assert process.wait() == -9, seed
    done = checkpoint(run)["step"] if (run / "checkpoint.pt").exists() else 0
    result = stitchsafe.train(tmp_path / "train.yaml", run, device="cpu")
    assert result.resumed_from == done < 18, seed
    assert same(checkpoint(run), checkpoint(undisturbed)), seed
    assert same(weights(run), weights(undisturbed)), seed
    assert history(run) == history(undisturbed), seed


def wait_for(process: Run, file: Path, lines: int) -> None:
    while not (file.exists() and file.read_text().count("\n") >= lines):
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)


def test_what_scores_best_is_exported_and_the_last_is_kept_to_resume(undisturbed: Path) -> None:
    best = torch.load(undisturbed / "best.pt", weights_only=True)
    assert best["step"] == 6
    averages = {
        name.removeprefix("module."): tensor
        for name, tensor in best["averages"].items()
        if name != "n_averaged"
    }
    assert same(weights(undisturbed), averages)
    assert not same(weights(undisturbed), best["module"])
    card = (undisturbed / "card.md").read_text()
    assert "the averages of step 6, which scored best" in card
    assert "adapted_rand_error" in card
    model = yaml.safe_load((undisturbed / "config.yaml").read_text())
    assert set(model["scores"]) == {"adapted_rand_error", "voi_split", "voi_merge", "ap_0.5"}
    judged = [entry for entry in history(undisturbed) if "ap_0.5" in entry]
    assert [entry["step"] for entry in judged] == [6, 12, 18]


def test_a_finished_run_is_not_run_again(undisturbed: Path) -> None:
    before = {path.name: path.read_bytes() for path in undisturbed.iterdir() if path.is_file()}
    again = stitchsafe.train(TrainingConfig.model_validate(EVERYTHING), undisturbed, device="cpu")
    assert again.resumed_from == again.steps == 18
    assert {p.name: p.read_bytes() for p in undisturbed.iterdir() if p.is_file()} == before


def test_passes_that_are_added_up_equal_one(tmp_path: Path) -> None:
    """The foreground's mean is over all of a step, however its weights lie."""
    heads = {"embedding": 3, "foreground": 1, "affinities": 1}
    arguments = content()["network"]["arguments"] | {"heads": heads}
    for name, batch, accumulate in (("one", 4, 1), ("two", 2, 2), ("four", 1, 4)):
        config = tiny(
            network={"name": "unet", "arguments": arguments},
            foreground={"reach": 1, "boundary_weight": 9, "dice": 0.5},
            affinities={"offsets": [[1, 0]]},
            optimiser={"steps": 3, "batch": batch, "accumulate": accumulate, "clip": 1.0},
        )
        train(config, tmp_path / name, device="cpu")
    for name in ("two", "four"):
        assert history(tmp_path / name)[-1] == pytest.approx(
            history(tmp_path / "one")[-1], rel=1e-4
        )


def patient(steps: int, patience: int | None) -> TrainingConfig:
    """By a judge that never finds anything better than at first."""
    return tiny(
        optimiser={"steps": steps, "batch": 1, "decay": "none"},
        validation={"every": 1, "count": 1, "size": [16, 16], "patience": patience},
    )


def worse(*given: Any) -> Scores:
    return Scores(0.5, 1, 1, 1.0, 1.0, {0.5: 0.5}, 1, 1)


def test_a_run_that_stopped_early_says_so_and_goes_on_with_more_patience(tmp_path: Path) -> None:
    run, heard = tmp_path / "run", Heard()
    assert train(patient(6, 1), run, device="cpu", judge=worse).steps == 2
    again = train(patient(8, 1), run, device="cpu", judge=worse, events=heard)
    assert again.stopped_early
    assert again.steps == again.resumed_from == 2
    assert "stopped early at step 2 of 8, as validation got no better after step 1" in heard
    assert "raise validation.patience above 1, or leave it out" in heard
    assert train(patient(8, 3), run, device="cpu", judge=worse).steps == 4
    last = train(patient(6, None), run, device="cpu", judge=worse)
    assert (last.steps, last.resumed_from, last.stopped_early) == (6, 4, False)
    train(patient(6, None), tmp_path / "whole", device="cpu", judge=worse)
    parts, whole = checkpoint(run), checkpoint(tmp_path / "whole")
    assert same(parts["module"], whole["module"])
    assert same(parts["optimiser"], whole["optimiser"])


@pytest.mark.parametrize("damage", [b"xx", b""])
def test_a_damaged_checkpoint_is_said_to_be_one(tmp_path: Path, damage: bytes) -> None:
    train(tiny(optimiser={"steps": 1}), tmp_path / "run", device="cpu")
    (tmp_path / "run" / "checkpoint.pt").write_bytes(damage)
    with pytest.raises(StoreError, match=r"checkpoint.*does not fit this training.*--overwrite"):
        train(tiny(optimiser={"steps": 2}), tmp_path / "run", device="cpu")


def test_several_processes_give_what_one_gives(zygote: Zygote, tmp_path: Path) -> None:
    arguments = content()["network"]["arguments"] | {"heads": {"embedding": 3, "foreground": 1}}
    changes = {
        "network": {"name": "unet", "arguments": arguments},
        "foreground": {"reach": 1, "boundary_weight": 9},
        "optimiser": {"steps": 4, "batch": 2, "accumulate": 2, "clip": 1.0},
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(content(**changes)))
    train(tiny(**changes), tmp_path / "one", device="cpu")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {  # what torchrun says
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "tiny", "GROUP_RANK": "0",
    }  # fmt: skip
    words = ["train", tmp_path / "train.yaml", "-o", tmp_path / "two", "--device", "cpu", "--json"]
    ranks = [
        zygote.start(*words, RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in (0, 1)
    ]
    outputs = []
    for process in ranks:
        with process:
            outputs.append(process.communicate())
            assert process.wait() == 0, outputs
    assert json.loads(outputs[0][0])["steps"] == 4
    assert outputs[1] == ("", "")
    assert history(tmp_path / "two")[-1] == pytest.approx(history(tmp_path / "one")[-1], rel=1e-4)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"decay": "none"}, [1, 1, 1, 1]),
        ({"decay": "cosine", "floor": 0}, [1, 0.853553, 0.5, 0.146447]),
        ({"decay": "polynomial", "power": 2, "floor": 0.2}, [1, 0.65, 0.4, 0.25]),
        ({"decay": "step", "milestones": [0.25, 0.75], "factor": 0.5}, [1, 0.5, 0.5, 0.25]),
        ({"decay": "none", "warmup": 2}, [0.5, 1, 1, 1]),
    ],
)
def test_courses_of_the_learning_rate(settings: dict[str, Any], expected: list[float]) -> None:
    config = OptimiserConfig.model_validate({"steps": 4, "learning_rate": 3.0} | settings)
    rates = [learning_rate(config, step) / 3 for step in range(4)]
    assert rates == pytest.approx(expected, rel=1e-5)


def test_settings_of_another_decay_are_refused() -> None:
    with pytest.raises(ValueError, match="milestones belongs to decay: step"):
        OptimiserConfig.model_validate({"steps": 4, "milestones": [0.5]})


def test_averages_keep_less_in_the_first_steps() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    averages = averages_of(layer, 0.25)
    seen = []
    for value in (8.0, 4.0, 0.0):
        layer.weight.data.fill_(value)
        averages.update_parameters(layer)
        seen.append(averages.module.weight.item())
    kept = 2 / 11  # after the first, which is taken over
    second = kept * 8 + (1 - kept) * 4
    assert seen == pytest.approx([8.0, second, 0.25 * second])


def test_a_history_has_each_step_once_after_a_crash(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny(), run, device="cpu")
    whole = history(run)
    with (run / "history.jsonl").open("a") as file:
        file.write('{"step": 9, "loss": 1}\n{"ste')  # of steps that no checkpoint holds
    train(tiny(), run, device="cpu")
    assert history(run) == whole


def test_logs_for_tables_and_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(tiny(logs={"csv": True, "tensorboard": True}), tmp_path / "run", device="cpu")
    header, *rows = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert header.startswith("step,seconds,loss,pull,push,regular,learning_rate")
    assert [row.split(",")[0] for row in rows] == ["2", "4", "6"]
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    losses = [(event.step, round(event.value, 3)) for event in events.Scalars("loss")]
    assert losses == [(e["step"], round(e["loss"], 3)) for e in history(tmp_path / "run")]


def test_tensorboard_that_is_not_installed_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"stitchsafe\[tensorboard\]"):
        train(tiny(logs={"tensorboard": True}), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize(
    ("changes", "device", "error", "words"),
    [
        ({}, "cuda", InputError, "no CUDA device"),
        ({}, "gpu", InputError, "it is one of auto, cpu, cuda"),
        ({"precision": "float16"}, "auto", InputError, "float16 needs a GPU"),
    ],
)
def test_devices_that_are_not_there(
    tmp_path: Path, changes: dict[str, Any], device: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        train(tiny(**changes), tmp_path / "run", device=device)
    assert not (tmp_path / "run").exists()


def test_a_batch_that_cannot_be_shared_is_refused_with_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PlanError, match="take 2 or 4"):
        train(tiny(optimiser={"steps": 4, "batch": 3}), tmp_path / "run", device="cpu")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="cannot be written"):
        train(tiny(), tmp_path / "file" / "run", device="cpu")


def test_averages_go_on_where_they_were(tmp_path: Path) -> None:
    config = tiny(optimiser={"steps": 6, "ema": 0.9, "learning_rate": 0.03})
    train(config, tmp_path / "whole", device="cpu")
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts", device="cpu", events=Stop(5))
    train(config, tmp_path / "parts", device="cpu")
    assert same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


def test_two_runs_in_one_folder_are_one_too_many(tmp_path: Path) -> None:
    class Second(Heard):
        """Starts the same training meanwhile, once by overwriting."""

        def advance(self, count: int = 1) -> None:
            for overwrite in (False, True):
                with pytest.raises(StoreError, match=r"another run is writing .*run; wait for it"):
                    train(tiny(), tmp_path / "run", device="cpu", overwrite=overwrite)

    train(tiny(optimiser={"steps": 2, "batch": 2, "learning_rate": 0.003}), tmp_path / "run",
          device="cpu", events=Second())  # fmt: skip
    assert checkpoint(tmp_path / "run")["step"] == 2
    train(tiny(), tmp_path / "run", device="cpu")


def test_the_window_and_its_crop_are_said_first(tmp_path: Path) -> None:
    heard = Heard()
    changes = {"window": [15, 16], "optimiser": {"steps": 1}}
    result = train(tiny(**changes), tmp_path / "run", device="cpu", events=heard)
    assert heard.lines[0] == (
        "training window 15 x 16 voxels from inputs of 32 x 32; the network's period is 2 x 2"
    )
    assert result.to_json()["window"] == {
        "window": [15, 16], "input": [32, 32], "offset": [8, 8], "crop": [0, 0], "neighbours": 1,
        "period": [2, 2],
    }  # fmt: skip
