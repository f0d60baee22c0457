"""A GPU for so many minutes: tests, a short run of everything, the benchmark, then records, the
most wanted first.

What is done stays done: the same command goes on where the time ran out. A part that fails leaves
the next a process, and so a GPU, of its own. Logs, states and an archive lie in ``outputs/gpu/``,
the records in ``outputs/`` as all others."""

import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from cifarlib import InputError, grid, outputs_folder, project_root, records, user_path
from cifarlib.benchmark.measure import own_process
from cifarlib.benchmark.trainer import load_data
from cifarlib.device.choice import pick_device
from cifarlib.params import RunParams, load_params
from cifarlib.provenance import device_name
from cifarlib.train import Interrupted, train

SHARE = 0.25  # of the time: more neither tests, nor short runs, nor the benchmark may take
BENCHMARK_SECONDS = 300  # with less it would not end, and nothing of it be kept
TESTS = (
    "tests/device",
    "tests/benchmark/test_contestants.py",
    "tests/test_loop.py",
    "tests/test_train.py",
)
BENCHMARK = "import json, sys; from cifarlib.benchmark.measure import measure; measure(**json.loads(sys.argv[1]))"
SHORT = {"epochs": 2, "train_images": 4096}
SEEDS = tuple(range(10))


@dataclass(frozen=True)
class Session:
    device: str
    outputs: Path
    data_folder: str | None
    begin: float  # by time.time(), as is the end
    end: float

    @property
    def left(self) -> float:
        return max(0.0, self.end - time.time())

    def within(self, share: float) -> "Session":
        """This session, but from now on with at most a share of its time."""
        return replace(self, end=min(self.end, time.time() + share * (self.end - self.begin)))

    def say(self, text: str) -> None:
        minutes, seconds = divmod(int(time.time() - self.begin), 60)
        print(f"[{minutes:02d}:{seconds:02d}] {text}", flush=True)


def wanted(runs: Sequence[str], seeds: Sequence[int], **schedule) -> list[RunParams]:
    """Seed 0 of Table 1, run 7 first, of the fast recipe, of all other runs; then the next seed."""
    order = sorted(
        runs,
        key=lambda run: (run != "run7", not run[3:].isdecimal(), run != "fast", "fast" not in run),
    )
    return [load_params(run, seed=seed, **schedule) for seed in seeds for run in order]


def use(
    minutes: float,
    device: str,
    output_folder: str | None,
    data_folder: str | None,
    runs: Sequence[str],
    seeds: Sequence[int] | None = None,
    **schedule,
) -> bool:
    """Does all there is to do, in order, and prints what came of it. Returns whether nothing
    failed; what the time did not reach has not. ``seeds``: 0, 1, 2 and so on unless given;
    ``schedule``: as load_params has it. Raises InputError before any of it for what cannot be
    used."""
    begin, runs = time.time(), [load_params(run).run for run in runs]
    if not minutes > 0:
        raise InputError(f"minutes = {minutes}: give a number above 0")
    todo, chosen = wanted(runs, seeds or SEEDS, **schedule), pick_device(device)
    data_folder = str(user_path("data_folder", data_folder).resolve()) if data_folder else None
    outputs = outputs_folder(output_folder).resolve()
    session = Session(str(chosen), outputs, data_folder, begin, begin + 60 * minutes)
    load_data(data_folder)
    folder, name_of_device = outputs / "gpu", device_name(chosen)
    (folder / "short").mkdir(parents=True, exist_ok=True)
    session.say(f"{name_of_device} for {minutes:g} minutes")
    tests = ("-m", "pytest", "-v", "--maxfail=5", "-k", f"{chosen.type} and not fake", *TESTS)
    benchmark = json.dumps(
        {"device": session.device, "data_folder": data_folder, "output_folder": str(outputs)}
    )
    parts = {
        "tests": lambda part: run_python(part, folder / "tests.log", *tests),
        "short runs": lambda part: train_all(
            replace(part, outputs=folder / "short"), wanted(runs, [0], **SHORT)
        ),
        "benchmark": lambda part: run_python(
            part, folder / "benchmark.log", "-c", BENCHMARK, benchmark
        ),
    }
    states = _states_of(folder / "parts.json", name_of_device)
    for name, part in parts.items():
        share = session.within(SHARE)
        if states.get(name) != "done":
            enough = share.left > (BENCHMARK_SECONDS if name == "benchmark" else 0)
            states[name] = (
                part(share)
                if enough
                else f"not begun, needs a session of more than {minutes:g} minutes"
            )
            records.write_text(folder / "parts.json", json.dumps(states, indent=1) + "\n")
        session.say(f"{name}: {states[name]}")
    states["records"] = train_all(session, todo)
    session.say(f"records: {states['records']}")
    cells = [
        cell
        for params in todo
        if (cell := grid.read_cell(params, outputs)).state in ("done", "unfinished")
    ]
    print(grid.as_table(cells) if cells else "no record yet")
    path = archive(outputs, [cell.folder for cell in cells if cell.state == "done"])
    session.say(f"to take along: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return not any(state.startswith("failed") for state in states.values())


def _states_of(path: Path, device: str) -> dict[str, str]:
    """Of the parts, as an earlier session on this device left them."""
    states = json.loads(path.read_text()) if path.exists() else {}
    return states if states.get("device") == device else {"device": device}


def run_python(session: Session, log: Path, *arguments: str) -> str:
    """A Python program from the project's root, stopped when the time is over: "done", "failed ..."
    or "stopped ..."."""
    environment = os.environ | (
        {"CIFARLIB_DATA": session.data_folder} if session.data_folder else {}
    )
    with open(log, "wb") as file:
        try:
            done = subprocess.run(
                [sys.executable, *arguments],
                cwd=project_root(),
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=session.left,
            )
        except subprocess.TimeoutExpired:
            return f"stopped for want of time, see {log}"
    return f"failed, see {log}" if done.returncode else "done"


def train_all(session: Session, todo: Sequence[RunParams]) -> str:
    """Trains what is not done yet, in order, as far as the time reaches: "done", "stopped ..." or
    "failed ..."."""
    failures, done = [], 0
    with ExitStack() as stack:
        call = own_process(stack)
        for params in todo:
            if grid.read_cell(params, session.outputs).state == "done":
                continue
            if not session.left:
                break
            start = time.time()
            try:
                problem = call(train_within, session, params)
            except BrokenProcessPool as error:
                problem = repr(error)
            if problem == "stopped":
                break
            if problem:
                failures.append(f"{params.folder}: {problem}")
                # what failed on a GPU may have left it unusable to its process, and its memory
                # taken
                stack.close()
                call = own_process(stack)
            done += not problem
            result = problem or results_text(
                records.read_record(session.outputs / params.folder, verify=False)
            )
            session.say(f"{params.folder}: {result}, {time.time() - start:.0f} s")
        else:
            return "failed: " + "; ".join(failures) if failures else "done"
    text = f"stopped when the time was over, {done} done"
    return f"failed: {'; '.join(failures)}; {text}" if failures else text


def train_within(session: Session, params: RunParams) -> str:
    """In a process of its own: "" once the record is there, "stopped", or what went wrong."""

    def stop_in_time(epochs: float, history: list[dict]) -> None:
        if not session.left:
            raise KeyboardInterrupt

    try:
        train(
            params,
            load_data(session.data_folder),
            session.outputs,
            device=session.device,
            progress=stop_in_time,
        )
    except Interrupted:
        return "stopped"
    except Exception as error:  # whatever it is, the next run may do without
        return f"{type(error).__name__}: {error}"
    return ""


def results_text(record: dict) -> str:
    parts = {"validation": record["validation_accuracy"], "test": record["test_accuracy"]}
    return ", ".join(
        f"{name} {100 * value:.2f} %" for name, value in parts.items() if value is not None
    )


def archive(outputs: Path, folders: Sequence[Path]) -> Path:
    """The records in these folders, run 7's first model, and what else the session left, in one
    file."""
    path = outputs / "gpu" / "records.tar.gz"
    model = outputs / load_params(7).folder / "model.safetensors"
    files = [
        f
        for folder in folders
        for f in sorted(folder.iterdir())
        if f.is_file() and f.suffix != ".safetensors"
    ]
    files += [model] * model.exists()
    files += [
        f
        for pattern in ("gpu/*.log", "gpu/*.json", "benchmark/*/record.json")
        for f in sorted(outputs.glob(pattern))
    ]
    with tarfile.open(path, "w:gz") as tar:
        for file in files:
            if not file.name.startswith("."):
                tar.add(file, file.relative_to(outputs))
    return path
