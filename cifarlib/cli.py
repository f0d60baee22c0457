"""The command line: ``python -m cifarlib COMMAND``, see --help of each.

A command imports what it needs when it runs: make asks for states often, and torch takes seconds.
"""

import fnmatch
import re
import sys
import textwrap
from collections.abc import Callable

import click

from cifarlib import InputError, __version__, outputs_folder, user_path
from cifarlib.params import load_params, run_names
from cifarlib.status import read, report, text_table

OPTIONS = {
    "run": {"default": "7", "help": "1 to 7, or the name of a file in params/."},
    "runs": {"help": "Runs, or patterns: '1 2 run7-mean', 'fast*'."},
    "seed": {"default": 0, "help": "Of the initial weights and the images' order and crops."},
    "seeds": {"help": "Seeds: '0 1 2'."},
    "epochs": {"type": int, "help": "Squeeze the schedule into so many epochs."},
    "stop": {"type": int, "help": "Stop the schedule after so many epochs."},
    "images": {"type": int, "help": "Train on the first so many images; 50000: on all."},
    "device": {"default": "auto", "help": "auto, cuda, cuda:1, mps or cpu."},
    "data": {"help": "Where CIFAR-10 lies or is put, instead of data/."},
    "outputs": {"help": "Where the records lie, instead of outputs/."},
    "layout": {"default": "auto", "help": "Of flat rows: auto, chw or hwc."},
    "views": {"is_flag": True, "help": "Average over six views of each image: slower, better."},
}
KINDS = click.Choice(["article", "paper", "paper_tex"])
OWN_IMAGES = {"type": str, "help": "A picture, a folder of pictures, an .npy or .npz file."}


def takes(*names: str, **changes: dict) -> Callable:
    """Give a command some of OPTIONS, with changed settings."""

    def decorate(function: Callable) -> Callable:
        for name in reversed(names):
            settings = {"show_default": True} | OPTIONS[name] | changes.get(name, {})
            function = click.option(f"--{name}", **settings)(function)
        return function

    return decorate


def words(text: str) -> list[str]:
    """Split a list that blanks or commas separate."""
    return re.split(r"[\s,]+", text.strip(" ,"))


def numbers(text: str | None) -> list[int] | None:
    """Read a list of seeds; None where none is given."""
    try:
        return [int(word) for word in words(text)] if text else None
    except ValueError:
        raise InputError(f"seeds = {text!r}: give whole numbers") from None


# make's variables are these options in capital letters: it gives --RUN "$RUN"
@click.group(context_settings={"token_normalize_func": str.lower})
@click.version_option(__version__, message="cifarlib %(version)s")
def commands() -> None:
    """CIFAR-10 with a small convolutional network: train, predict, report."""


@commands.command()
@takes("data")
def data(data: str | None) -> None:
    """Fetch CIFAR-10, or verify what is there."""
    from cifarlib.data import load_cifar10

    click.echo(f"CIFAR-10 is complete, SHA-256 {load_cifar10(data).sha256}")


@commands.command()
@takes("run", "seed", "epochs", "stop", "images", run={"default": "fast"})
@takes("device", "data", "outputs")
@click.option("--unless-done", is_flag=True, help="Leave a finished run alone.")
def train(*, run, seed, epochs, stop, images, device, data, outputs, unless_done) -> None:
    """Train a run in a copy of the train notebook."""
    schedule = {"epochs": epochs, "stop_epoch": stop, "train_images": images}
    params = load_params(run, seed=seed, **schedule)
    data_folder = user_path("data_folder", data)
    output_folder = outputs_folder(outputs).absolute()
    # all that the notebook's own cell sets, which someone may have edited in JupyterLab
    parameters = {
        "run": params.run,
        "seed": params.seed,
        **schedule,
        "device": device,
        "data_folder": data_folder and str(data_folder.absolute()),
        "output_folder": outputs and str(output_folder),
        "resume": True,
        "deterministic": False,
        "precision": "auto",
        "capture": True,
    }
    from cifarlib import train_notebook

    train_notebook.train(params, output_folder, parameters, unless_done)


@commands.command()
@takes("runs", "seeds", "epochs", "stop", "images", "outputs")
@click.option("--todo", is_flag=True, help="Print run/seed and folder of what is not done.")
def status(*, runs, seeds, epochs, stop, images, outputs, todo) -> None:
    """Show which runs are done and which are missing."""
    schedule = {"epochs": epochs, "stop_epoch": stop, "train_images": images}
    names = []
    for word in words(runs or "run*"):  # Table 1 and its variants
        names += fnmatch.filter(run_names(), word) or [load_params(word).run]
    pairs = [(name, seed) for seed in numbers(seeds or "0") for name in dict.fromkeys(names)]
    wanted = [load_params(name, seed=seed, **schedule) for name, seed in pairs]
    folder = outputs_folder(outputs)
    if not todo:
        click.echo(report(wanted, folder, every=not runs))
        return
    for run in (read(params, folder) for params in wanted):
        if run.state != "done":
            click.echo(f"{run.params.run}/{run.params.seed}\t{run.folder}")


@commands.command()
@takes("outputs")
@click.option("--markdown", is_flag=True, help="In Markdown instead of 100 columns.")
@click.option("--figure", help="Draw the fast recipe and its arms into this SVG file.")
def results(outputs: str | None, markdown: bool, figure: str | None) -> None:
    """Print verdicts on the paper's claims, and all runs."""
    from cifarlib import records
    from cifarlib.report import claims, results

    frame = results.table(outputs)
    fast = results.of_fast(frame)
    verdicts = claims.conclusion(claims.judge(fast, "paper", "fast"))
    if markdown:
        click.echo(f"{verdicts}\n\n{results.markdown(frame)}")
    else:
        for line in verdicts.replace("*", "").splitlines():
            click.echo(textwrap.fill(line, 100, subsequent_indent="  "))
        click.echo("\n" + _plain(results.summary(frame)))
    if figure:
        from cifarlib.report import figures, tables

        drawn = figures.run_accuracies(*tables.accuracies(fast), base="fast")
        records.write_text(user_path("figure", figure), figures.as_svg(drawn))


def _plain(summary) -> str:
    """Write the DataFrame of results.summary in 100 columns, "-" for what was not measured."""
    summary["run"] += summary.pop("changes").map(lambda changes: changes and f" ({changes})")
    shares = summary.select_dtypes("float")
    summary[shares.columns] = shares.map("{:.2f}".format).replace("nan", "-")
    names = {"trained_for": "trained for", "validation": "valid. %", "held_out": "held out"}
    texts = summary.astype(str).rename(columns=names)
    return text_table([list(texts), *texts.itertuples(index=False)], 24)


@commands.command()
@takes("images", "run", "seeds", "views", "layout", "device", "outputs", images=OWN_IMAGES)
@click.option("--model", multiple=True, help="A folder with a network, instead of a run.")
@click.option("--predictions", default="predictions.npy", help="The file to write.")
@click.option("--submission", is_flag=True, help="Write Kaggle's submission.csv, too.")
def predict(*, images, run, seeds, views, layout, device, outputs, model, **files) -> None:
    """Classify images of your own."""
    from cifarlib.images import read_images
    from cifarlib.predict import find_models, output_path, predict

    if not images:
        raise InputError("images: give a picture, a folder of pictures, an .npy or .npz file")
    folders = find_models(run, numbers(seeds), list(model), outputs)
    output_path(files["predictions"])
    answers = predict(*read_images(images, layout), folders, views, device)
    written = f"{answers.write(**files)} and, beside it, the answers as a table (.csv)"
    click.echo(f"{answers.text}\nWritten: {written}")


@commands.command()
@click.argument("notebook")
@click.option("--to", multiple=True, type=KINDS, help="HTML, PDF, or LaTeX's source.")
@click.option("--folder", help="Where the files go, instead of beside the notebook.")
def export(notebook: str, to: tuple[str, ...], folder: str | None) -> None:
    """Typeset an executed notebook, as HTML and PDF."""
    from nbformat import ValidationError

    from cifarlib.report.export import export

    for kind in to or ("article", "paper"):
        try:
            path = export(user_path("notebook", notebook), kind, user_path("folder", folder))
        except (OSError, RuntimeError, ValueError, ValidationError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{notebook} cannot be exported: {reason}") from None
        click.echo(path)


@commands.command()
@click.option("--name", required=True, help="First_Last: the name of the zip.")
@takes("run", "seeds", "images", "layout", "data", "outputs", images=OWN_IMAGES)
@click.option("--no-views", is_flag=True, help="See each image once, not in six views.")
@click.option("--check", is_flag=True, help="Only look whether all is there but the report.")
def handin(*, name, run, seeds, images, layout, data, outputs, no_views, check) -> None:
    """Make one zip of all that is handed in, tried out."""
    from cifarlib.handin import hand_in

    folders = {"output_folder": outputs, "data_folder": data}
    asked = (name, run, numbers(seeds), images, layout)
    path = hand_in(*asked, views=not no_views, check=check, **folders)
    if path:
        size = f"{path.stat().st_size / 1e6:.1f} MB"
        click.echo(f"{path} ({size}): unpacked, it made the same predictions again")


def main() -> None:
    """Run the command that was typed; what cannot be done is one line, and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal in Latin-1 prints what it can
    given = sys.argv[1:] or ["--help"]
    try:
        sys.exit(commands(given, standalone_mode=False, prog_name="python -m cifarlib"))
    except click.ClickException as error:
        sys.exit(f"error: {error.format_message()} (--help says more)")
    except InputError as error:
        sys.exit(f"error: {error}")
    except click.Abort:  # Ctrl-C
        sys.exit(130)
