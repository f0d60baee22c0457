"""The command line: ``python -m cifarlib COMMAND``, see --help of each.

A command imports what it needs when it runs: make asks for states often, and torch takes seconds.
"""

import fnmatch
import sys
from pathlib import Path

import click

from cifarlib import InputError, outputs_folder, records
from cifarlib.params import load_params, run_names
from cifarlib.status import overview, read


def numbers(text: str) -> list[int]:
    """Read a list of whole numbers."""
    words = text.replace(",", " ").split()
    if not all(word.isdecimal() for word in words):
        raise click.BadParameter(f"{text!r}: give whole numbers, such as '0 1 2'")
    return [int(word) for word in words]


OPTIONS = {
    "run": {"default": "best", "help": "1 to 7, or the name of a file in params/."},
    "runs": {"default": "run*", "help": "Runs, or patterns: '1 2 run7-mean', 'fast*'."},
    "seed": {"default": 0, "help": "Seed of the weights and of the images' order and crops."},
    "seeds": {"type": numbers, "help": "Seeds: '0 1 2'."},
    "epochs": {"type": int, "help": "Squeeze the schedule into this many epochs."},
    "stop_epoch": {"type": int, "help": "Stop the schedule after this many epochs."},
    "train_images": {"type": int, "help": "Train on the first so many images; 50000: on all."},
    "device": {"default": "auto", "help": "auto, cuda, cuda:1, mps or cpu."},
    "data_folder": {"help": "Where CIFAR-10 lies or is put, instead of data/."},
    "output_folder": {"help": "Where the records lie, instead of outputs/."},
    "images": {"help": "A picture, a folder of pictures, an .npy or .npz file."},
    "views": {"type": bool, "default": False, "help": "Average over six views: slower, better."},
}
SCHEDULE = "epochs stop_epoch train_images"
SHORT = {"stop_epoch": "stop", "data_folder": "data", "output_folder": "outputs"}


def options(names: str) -> list[click.Option]:
    """Make those of OPTIONS that a command takes."""
    return [click.Option([f"--{SHORT.get(n, n)}", n], **OPTIONS[n]) for n in names.split()]


# make's variables are these options in capital letters: it gives --RUN "$RUN"
@click.group(context_settings={"token_normalize_func": str.lower, "show_default": True})
@click.version_option(package_name="cifarlib", message="cifarlib %(version)s")
def commands() -> None:
    """CIFAR-10 with a small convolutional network: train, predict, report."""


@commands.command(params=options("data_folder"))
def data(data_folder: str | None) -> None:
    """Fetch CIFAR-10, or verify what is there."""
    from cifarlib.data import load_cifar10

    click.echo(f"CIFAR-10 is complete, SHA-256 {load_cifar10(data_folder).sha256}")


@commands.command(params=options(f"seed {SCHEDULE} device data_folder output_folder"))
@click.option("--run", default="fast", help=OPTIONS["run"]["help"])
@click.option("--unless-done", is_flag=True, help="Leave a finished run alone.")
def train(*, unless_done, **given) -> None:
    """Train a run in a copy of the train notebook."""
    from cifarlib import train_notebook

    train_notebook.train(unless_done=unless_done, **given)


@commands.command(params=options(f"runs seeds {SCHEDULE} output_folder"))
@click.option("--todo", is_flag=True, help="Print run/seed and folder of what is not done.")
def status(*, runs, seeds, output_folder, todo, **schedule) -> None:
    """Show which runs are done and which are missing."""
    names = []
    for word in runs.replace(",", " ").split():
        names += fnmatch.filter(run_names(), word) or [load_params(word).run]
    pairs = [(name, seed) for seed in dict.fromkeys(seeds or [0]) for name in dict.fromkeys(names)]
    wanted = [load_params(name, seed=seed, **schedule) for name, seed in pairs]
    folder = outputs_folder(output_folder)
    if not todo:
        click.echo(overview(wanted, folder))
        return
    for params in wanted:
        if read(folder / params.folder).state != "done":
            click.echo(f"{params.run}/{params.seed}\t{folder / params.folder}")


@commands.command(params=options("output_folder"))
@click.option("--figure", help="Draw the verdicts into this SVG file.")
def results(output_folder: str | None, figure: str | None) -> None:
    """Print verdicts on the paper's claims, and all runs."""
    from cifarlib.report import claims, figures, results

    frame = results.table(output_folder)
    if frame.empty:
        raise InputError(f"{outputs_folder(output_folder)} has no record: make train makes one")
    judged = claims.judge(results.of_fast(frame), recipe="fast")
    click.echo(claims.conclusion(judged).replace("*", "") + "\n")
    click.echo(results.summary(frame).to_string(index=False, na_rep="-", float_format="%.2f"))
    if figure:
        records.write_text(Path(figure), figures.as_svg(figures.claims(judged)))


@commands.command(params=options("run seeds views device output_folder"))
@click.option("--images", required=True, help=OPTIONS["images"]["help"])
@click.option("--model", multiple=True, help="A folder with a network, instead of a run.")
@click.option("--predictions", default="predictions.npy", help="The file to write.")
@click.option("--submission", is_flag=True, help="Write a table for Kaggle, too.")
def predict(*, images, views, device, predictions, submission, **whose) -> None:
    """Classify images of your own."""
    from cifarlib.images import read_images
    from cifarlib.predict import find_models, output_path, predict

    folders = find_models(**whose)
    pixels, names = read_images(images)
    path = output_path(predictions, names if submission else [])
    answers = predict(pixels, names, folders, views, device)
    written = answers.write(path, submission)
    click.echo(f"{answers.text}\nWritten: {written} and, beside it, a table (.csv)")


@commands.command(params=options("run seeds output_folder"))
@click.option("--name", required=True, help="First_Last: the name of the zip.")
@click.option("--images", required=True, help=OPTIONS["images"]["help"])
@click.option("--check", is_flag=True, help="Only look whether all is there but the report.")
def handin(**asked) -> None:
    """Make one zip of all that is handed in, tried out."""
    from cifarlib.handin import hand_in

    click.echo(hand_in(**asked))


def main() -> None:
    """Run the command that was typed; what cannot be done is one line, and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal in Latin-1 prints what it can
    try:
        sys.exit(commands(sys.argv[1:] or ["--help"], standalone_mode=False))
    except click.ClickException as error:
        sys.exit(f"error: {error.format_message()} (--help says more)")
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")
    except click.Abort:  # Ctrl-C
        sys.exit(130)
