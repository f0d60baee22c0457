"""A notebook executed by papermill, as make does it: what its cells print is shown, and what goes
wrong is one line."""

import logging
import os
import re
import tempfile
from pathlib import Path

from cifarlib import InputError, outputs_folder, project_root, user_path
from cifarlib.params import load_params

PAPERMILLS_OWN = ("Input Notebook:", "Output Notebook:", "Executing ", "Ending Cell ")
KERNEL = "python3"  # of this environment, whatever kernel JupyterLab noted in the notebook
ROOM = 100_000  # bytes that a kernel and its notebook need at least


class ExecutionError(Exception):
    """The notebook did not run to its end; the message says why."""


class Terminal(logging.Handler):
    """What the cells print, without papermill's word on each cell."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().strip("\n")
        if text and not text.startswith(PAPERMILLS_OWN):
            print(text, flush=True)


def execute(notebook: Path, output: str | Path, parameters: dict, show: bool = False) -> None:
    """Executes a notebook into ``output``; ``show``: what its cells print goes to the terminal,
    too.

    Raises InputError for an output that cannot be, ExecutionError where a cell fails or no kernel
    can be had."""
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import DeadKernelError
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError

    output = user_path("output", output)
    for name in {"output_folder", "data_folder"} & {
        name for name in parameters if parameters[name]
    }:
        # JupyterLab runs the executed copy from another working directory
        parameters[name] = str(user_path(name, parameters[name]).absolute())
    if not notebook.is_file():
        raise InputError(f"no notebook {notebook}")
    logger = logging.getLogger("papermill")
    logger.handlers, logger.propagate = [Terminal()], False
    logger.setLevel(logging.INFO if show else logging.ERROR)
    # after Ctrl-C it would print how papermill was left
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    options = {"kernel_name": KERNEL, "log_output": show, "progress_bar": False}
    _check_room(output.parent)
    try:
        # or papermill would fill in {name}
        target = str(output).replace("{", "{{").replace("}", "}}")
        execute_notebook(
            notebook, target, parameters, extra_arguments=["--log-level=CRITICAL"], **options
        )
    except PapermillExecutionError as error:
        reason = (error.evalue or "no reason given").splitlines()[0]
        if error.ename not in ("InputError", "Interrupted", "Diverged"):
            reason = f"{error.ename}: {reason} (the traceback is in {output})"
        raise ExecutionError(reason) from None
    except KeyboardInterrupt:
        raise ExecutionError(
            "stopped; training goes on from its last epoch by the same command"
        ) from None
    except NoSuchKernel:
        raise ExecutionError(
            f"no kernel {KERNEL!r} in this environment: pip install ipykernel"
        ) from None
    except (DeadKernelError, RuntimeError) as error:
        raise ExecutionError(f"{error}: often for lack of memory") from None
    except OSError as error:
        raise ExecutionError(f"{notebook} cannot be executed into {output}: {error}") from None


def _check_room(folder: Path) -> None:
    """Raises InputError where this folder or those that a kernel needs are full or cannot be
    written."""
    from jupyter_core.paths import jupyter_runtime_dir

    for needed in (
        folder,
        jupyter_runtime_dir(),
        os.environ.get("IPYTHONDIR", Path.home() / ".ipython"),
    ):
        try:
            Path(needed).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=needed) as file:
                file.write(bytes(ROOM))
        except OSError as error:
            raise InputError(
                f"{needed} cannot be written, and executing a notebook needs it: {error}"
            ) from None


def parameters_of(notebook: Path) -> dict:
    """What the notebook's own parameters cell sets, as someone may have edited it."""
    import nbformat

    values = {}
    for cell in nbformat.read(notebook, as_version=4).cells:
        if "parameters" in cell.metadata.get("tags", []):
            try:
                exec(cell.source, values)
            except Exception as error:
                raise InputError(
                    f"the parameters cell of {notebook} cannot be run: {error!r}"
                ) from None
    return values


def train(given: dict) -> None:
    """Executes the train notebook beside the record that it leaves. What is not given holds as its
    parameters cell has it."""
    notebook = project_root() / "notebooks" / "train.ipynb"
    values = parameters_of(notebook) | given
    for name in ("run", "seed", "epochs", "stop_epoch", "train_images", "output_folder"):
        if name not in values:
            raise InputError(f"the parameters cell of {notebook} does not set {name}")
    for name in ("run", "seed"):
        if len(re.split("[ ,]+", str(values[name]))) > 1:
            runs, seeds = f'RUNS="{values["run"]}"', f'SEEDS="{values["seed"]}"'
            raise InputError(
                f"{name} = {values[name]!r}: one is trained at a time; make table {runs} {seeds} trains several"
            )
    schedule = {name: values[name] for name in ("epochs", "stop_epoch", "train_images")}
    folder = (
        outputs_folder(values["output_folder"])
        / load_params(values["run"], seed=values["seed"], **schedule).folder
    )
    shown = os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else folder
    print(f"== training run and executed notebook: {shown}", flush=True)
    if (folder / "record.json").exists():
        print(
            "== it is finished: trained again, its record is replaced once the new one is complete",
            flush=True,
        )
    execute(notebook, folder / "train.ipynb", given, show=True)
    print(f"== done: open {shown}/train.ipynb (make lab), or read {shown}/record.json")
