"""The one command line: ``python -m cifarlib COMMAND``, each command with --help.

torch is imported only by what needs it: make asks for states many times a run.
"""

import argparse
import fnmatch
import sys
from pathlib import Path

from cifarlib import InputError, outputs_folder, user_path
from cifarlib.execute import ExecutionError


def data(options: argparse.Namespace) -> None:
    """fetch CIFAR-10 where it is missing, and verify it"""
    from cifarlib.data import load_cifar10

    print(f"CIFAR-10 is complete, SHA-256 {load_cifar10(options.folder).sha256}")


def train(options: argparse.Namespace) -> None:
    """execute the train notebook beside the record that it leaves"""
    from cifarlib.execute import train

    train(_parameters(options))


def execute(options: argparse.Namespace) -> None:
    """execute any notebook of the project"""
    from cifarlib.execute import execute

    execute(options.notebook, options.output, _parameters(options), options.show)


def status(options: argparse.Namespace) -> None:
    """what of a grid is done"""
    from cifarlib import grid
    from cifarlib.params import load_params

    runs, schedule = _runs(options), _schedule(options)
    every = dict.fromkeys(
        load_params(run, seed=seed, **schedule) for seed in options.seeds for run in runs
    )
    outputs, no_answer = outputs_folder(options.output_folder), ""
    for params in every if options.wait else ():
        grid.wait_for(params, outputs)
    cells = [grid.read_cell(params, outputs) for params in every]
    try:
        cells = grid.ask_slurm(cells, outputs) if options.slurm else cells
    except InputError as error:
        if options.todo:  # what is queued would be submitted twice
            raise
        no_answer = f"{error}\n"
    if options.todo:
        text = "".join(
            f"{grid.as_todo(cell, options.slurm)}\n" for cell in cells if cell.state != "done"
        )
    else:
        text = f"{grid.summary(cells) if options.brief else grid.full_text(cells)}\n"
    sys.stdout.write(text + no_answer)


def results(options: argparse.Namespace) -> None:
    """the README's verdicts on the paper's claims and table of runs, and its figure"""
    from cifarlib import records
    from cifarlib.report import article
    from cifarlib.report.claims import judge, load_claims, on_test_images
    from cifarlib.report.results import collect_like, results_markdown

    fast, asked = collect_like("fast", options.output_folder), load_claims("paper", "fast")
    judged = (
        judge(fast, asked),
        judge(fast, asked, pooled=False),
        judge(fast, on_test_images(asked)),
    )
    print(article.conclusions(*judged, load_claims("paper")), end="\n\n")
    print(results_markdown(records.finished(options.output_folder)))
    if options.figure:
        from cifarlib.report.figures_old import as_svg, run_accuracies

        records.write_text(
            options.figure, as_svg(run_accuracies(*article.accuracies(fast), base="fast"))
        )


def export(options: argparse.Namespace) -> None:
    """an executed notebook as HTML and PDF beside it, or as LaTeX source"""
    from cifarlib.report.export import export

    for kind in options.to or ("article", "paper"):
        folder = user_path("folder", options.folder)
        try:
            path = export(user_path("notebook", options.notebook), kind, folder)
        except (RuntimeError, OSError, ValueError) as error:
            raise InputError(f"{options.notebook} cannot be exported: {error}") from None
        print(f"{path} ({path.stat().st_size / 1e6:.2f} MB)")


def handin(options: argparse.Namespace) -> None:
    """one zip of predictions, code, network, report and notebooks, proved to predict the same
    again"""
    from cifarlib.handin import hand_in
    from cifarlib.params import load_params

    asked = {name: getattr(options, name) for name in ("seed", "epochs", "stop_epoch")}
    run = load_params(options.run).run
    folders = options.output_folder, options.data_folder
    path = hand_in(
        options.name, run, options.images, options.layout, *folders, options.check, **asked
    )
    if path:
        print(
            f"{path} ({path.stat().st_size / 1e6:.1f} MB): unpacked, it made the same predictions again"
        )


def gpu(options: argparse.Namespace) -> None:
    """for so many minutes: tests, short runs, benchmark and records on a GPU, an archive of them"""
    from cifarlib.gpu_session import use

    folders = options.output_folder, options.data_folder
    if not use(
        options.minutes,
        options.device,
        *folders,
        _runs(options),
        options.seeds,
        **_schedule(options),
    ):
        sys.exit("error: a part failed, see above")


def _runs(options: argparse.Namespace) -> list[str]:
    """What was given, each pattern replaced by the names that match it."""
    from cifarlib.params import run_names

    return [
        run for pattern in options.runs for run in fnmatch.filter(run_names(), pattern) or [pattern]
    ]


def _schedule(options: argparse.Namespace) -> dict:
    return {name: getattr(options, name) for name in ("epochs", "stop_epoch", "train_images")}


def _value(text: str) -> bool | int | str | None:
    """What ``-p name text`` means, as papermill reads it."""
    try:
        return int(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)


def _parameters(options: argparse.Namespace) -> dict:
    return {name: _value(text) for name, text in options.p} | dict(options.r)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cifarlib", description=__doc__.partition("\n")[0]
    )
    every = (data, train, execute, status, results, export, handin, gpu)
    commands = parser.add_subparsers(
        required=True, metavar=" | ".join(command.__name__ for command in every)
    )
    parsers = {f: commands.add_parser(f.__name__, help=f.__doc__) for f in every}
    parsers[data].add_argument("folder", nargs="?", help="default: data/ of the project")
    parsers[execute].add_argument("notebook", type=Path)
    parsers[execute].add_argument("output", help="the executed copy")
    parsers[execute].add_argument("--show", action="store_true", help="what its cells print")
    for command in (train, execute):
        for name, form in (("-p", "VALUE"), ("-r", "TEXT")):  # as papermill has them
            parsers[command].add_argument(
                name,
                nargs=2,
                action="append",
                default=[],
                metavar=("NAME", form),
                help=f"a parameter of the notebook, its value {'as it is' if form == 'TEXT' else 'read'}",
            )
    parsers[status].add_argument(
        "runs", nargs="+", help="1 to 7, names of files in params/, or patterns such as 'fast*'"
    )
    parsers[status].add_argument("--seeds", nargs="+", type=int, default=[0])
    for name, meaning in {
        "--todo": "print run/seed of what is not done, a line each",
        "--slurm": "ask Slurm too; --todo adds folder and, if queued, task",
        "--brief": "print one line",
        "--wait": "first wait for other processes training these runs",
    }.items():
        parsers[status].add_argument(name, action="store_true", help=meaning)
    parsers[results].add_argument(
        "--figure", type=Path, help="where the figure of the fast recipe goes, as SVG"
    )
    parsers[gpu].add_argument("minutes", type=float)
    parsers[gpu].add_argument("--device", default="cuda")
    parsers[gpu].add_argument(
        "--runs", nargs="+", default=["*"], help="as of status; default: all of params/"
    )
    parsers[gpu].add_argument(
        "--seeds", nargs="+", type=int, help="default: as many as the time reaches for"
    )
    parsers[gpu].add_argument("--data-folder")
    for command in (status, gpu):
        for name in ("--epochs", "--stop-epoch", "--train-images"):
            parsers[command].add_argument(name, type=int)
    for command in (status, results, gpu):
        parsers[command].add_argument(
            "--output-folder", help="where the records lie; default: outputs/ of the project"
        )
    parsers[export].add_argument("notebook", type=Path)
    parsers[export].add_argument(
        "--to", choices=("article", "paper", "paper_tex"), action="append", help="only this one"
    )
    parsers[export].add_argument("--folder", help="default: the notebook's")
    parsers[handin].add_argument("name", help="First_Last: the name of the zip")
    parsers[handin].add_argument("--run", default="7")
    parsers[handin].add_argument(
        "--images", help="what to predict; default: CIFAR-10's test images"
    )
    parsers[handin].add_argument("--layout", default="auto", help="of flat rows: auto, chw or hwc")
    parsers[handin].add_argument(
        "--check", action="store_true", help="only look whether all is there but the report"
    )
    parsers[handin].add_argument("--data-folder")
    parsers[handin].add_argument("--output-folder")
    for name in ("--seed", "--epochs", "--stop-epoch"):
        parsers[handin].add_argument(name, type=int)
    for command, each in parsers.items():
        each.set_defaults(command=command)
    for each in (parser, *parsers.values()):
        # without the lines of usage
        each.error = lambda message: sys.exit(f"error: {message} (--help says more)")
    return parser


def main() -> None:
    options = _parser().parse_args()
    try:
        options.command(options)
    except (InputError, ExecutionError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
