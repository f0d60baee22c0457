"""JupyterLab as `make lab` starts it from a fresh copy of the project, used as a person would, in
headless Chromium."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from urllib.request import Request, urlopen

import nbformat
import pytest

from cifarlib import project_root, records

sync_api = pytest.importorskip("playwright.sync_api")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

MINUTES = 60_000  # of playwright's milliseconds


@pytest.fixture(scope="module")
def project(tmp_path_factory, copy_of_project):
    """A copy of what a clone holds, with the data and the network to predict with."""
    copy = copy_of_project(tmp_path_factory.mktemp("clone") / "project")
    shutil.copytree(project_root() / "outputs" / "best", copy / "outputs" / "best")
    return copy


@pytest.fixture(scope="module")
def lab(project):
    """The address that `make lab` opens in a browser."""
    settings = "--no-browser --port=0 --expose-app-in-browser --allow-root"
    command = ["make", "lab", "SETUP=", f"BIN={Path(sys.executable).parent}", f"LAB={settings}"]
    runtime, log = project / ".runtime", project / "lab.log"
    ours = {
        "PYTHONPATH": str(project),
        "JUPYTER_CONFIG_DIR": str(project / ".jupyter"),
        "JUPYTER_RUNTIME_DIR": str(runtime),
    }
    with open(log, "w", encoding="utf-8") as file:
        server = subprocess.Popen(
            command,
            cwd=project,
            stdout=file,
            stderr=file,
            env={**os.environ, **ours},
            start_new_session=True,
        )
    end = time.monotonic() + 120
    # what Jupyter hands to a browser
    while not (pages := [*runtime.glob("jpserver-file-to-run-*-open.html")]):
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.2)
    yield re.search(r'href="(http://localhost[^"]+)"', pages[0].read_text())[1]
    os.killpg(server.pid, signal.SIGTERM)
    server.wait(30)


@pytest.fixture(scope="module")
def page(lab):
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--disable-gpu"])
        page = browser.new_page(viewport={"width": 1300, "height": 1300})
        page.set_default_timeout(3 * MINUTES)
        page.goto(lab)
        page.wait_for_function(
            "window.jupyterapp?.shell?.currentWidget?.content?.widgets?.length > 0"
        )
        yield page
        browser.close()


def command(page, name, **arguments):
    page.evaluate(
        "([name, args]) => jupyterapp.commands.execute(name, args).then(() => null)",
        [name, arguments],
    )


class Lab:
    """One notebook, open in the browser."""

    def __init__(self, page, project, name):
        self.page, self.path = page, project / "notebooks" / f"{name}.ipynb"
        self.before = nbformat.read(self.path, as_version=4)
        command(page, "docmanager:open", path=f"notebooks/{name}.ipynb")
        page.wait_for_function(
            "name => jupyterapp.shell.currentWidget?.context?.path?.endsWith(name) && "
            "jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'",
            arg=f"/{name}.ipynb",
        )

    def edit_parameters(self, source):
        """Add lines to the parameters cell, as one would by typing."""
        tagged = ["parameters" in cell.metadata.get("tags", []) for cell in self.before.cells]
        cell = self.before.cells[tagged.index(True)]
        cell.source += source
        self.page.evaluate(
            "([i, text]) => "
            "jupyterapp.shell.currentWidget.content.model.cells.get(i).sharedModel.setSource(text)",
            [tagged.index(True), cell.source],
        )

    def run_all(self):
        command(self.page, "notebook:run-all-cells")

    def saved(self):
        """The notebook as it then lies on disk: valid, and its cells what they were."""
        command(self.page, "docmanager:save")
        notebook = nbformat.read(self.path, as_version=4)
        nbformat.validate(notebook)
        assert [cell.source for cell in notebook.cells] == [
            cell.source for cell in self.before.cells
        ]
        assert [cell.id for cell in notebook.cells] == [cell.id for cell in self.before.cells]
        return notebook

    def close(self):
        command(self.page, "kernelmenu:shutdown")
        command(self.page, "docmanager:save")
        command(self.page, "application:close")


@pytest.fixture
def opened(page, project):
    """Opens a notebook by name; closed, with its kernel, after the test."""
    open_now = []
    yield lambda name: open_now.append(Lab(page, project, name)) or open_now[-1]
    for notebook in open_now:
        notebook.close()


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def html_of(notebook):
    return "".join(o["data"].get("text/html", "") for o in outputs(notebook) if "data" in o)


def assert_clean(notebook):
    assert [
        o for o in outputs(notebook) if o.output_type == "error" or o.get("name") == "stderr"
    ] == []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code if cell.execution_count is None] == []


def test_make_lab_opens_the_start_page(lab, page):
    assert lab.partition("?")[0].endswith("/lab/tree/notebooks/start.ipynb")
    assert page.evaluate("jupyterapp.shell.currentWidget.context.path") == "notebooks/start.ipynb"
    assert page.locator(".jp-RenderedMarkdown h1").first.inner_text().startswith("Where to begin?")


def test_a_click_on_a_citation_or_a_number_goes_there(opened, page, project):
    """A References entry in Markdown, a figure in an output, each out of sight at first."""
    apart = [nbformat.v4.new_markdown_cell("\n\n".join("a line" for _ in range(60))) for _ in "abc"]
    link = nbformat.v4.new_markdown_cell("[Known 2009](#known2009), [Figure 1](#fig-a)")
    figure = '<figure id="fig-a"><figcaption><b>Figure 1.</b> A.</figcaption></figure>'
    figure = nbformat.v4.new_output("display_data", {"text/html": figure})
    figure = nbformat.v4.new_code_cell("1", outputs=[figure], execution_count=1)
    entry = nbformat.v4.new_markdown_cell('## References\n\n- <a id="known2009"></a>Known, A.')
    cells = [link, apart[0], figure, apart[1], entry, apart[2]]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(notebook, project / "notebooks" / "links.ipynb")
    opened("links")
    seen = """place => {
        const found = document.querySelector(`[data-jupyter-id="${place}"], #${place}`)
        const box = found?.parentElement.getBoundingClientRect()
        return box && box.top >= 0 && box.bottom <= innerHeight
    }"""
    for name, place in (("Known 2009", "known2009"), ("Figure 1", "fig-a")):
        for _ in range(10):  # a page that is still being drawn loses a click
            page.evaluate("jupyterapp.shell.currentWidget.content.scrollToItem(0)")
            page.get_by_role("link", name=name, exact=True).click()
            page.wait_for_timeout(2000)
            if page.evaluate(seen, place):
                break
        assert page.evaluate(seen, place)


def scroll_to(page, notebook, text):
    index = next(i for i, cell in enumerate(notebook.before.cells) if text in cell.source)
    page.evaluate("i => jupyterapp.shell.currentWidget.content.scrollToItem(i, 'start')", index)


@pytest.mark.parametrize("name", ["start", "explore", "whitening", "predict"])
def test_a_notebook_runs_twice_in_one_kernel_and_can_be_played_with(opened, page, name):
    notebook = opened(name)
    for _ in range(2):
        notebook.run_all()
        saved = notebook.saved()
        assert_clean(saved)
        numbers = re.findall(r"<b>Figure (\d+)\.</b>", html_of(saved))
        assert numbers == [str(i + 1) for i in range(len(numbers))]
    if name in ("explore", "whitening"):
        scroll_to(page, notebook, "## Exercises")
        folded = page.locator(".jp-RenderedMarkdown:visible details").first
        assert not folded.locator("p").first.is_visible()
        folded.locator("summary").click()
        assert folded.locator("p").first.is_visible()
    if name != "start":
        move_the_controls(page, notebook)


def move_the_controls(page, notebook):
    """Slider and drop-down change the figure, which is saved as it then is."""
    scroll_to(page, notebook, "image=IntSlider(")
    cell = page.locator(".jp-CodeCell:visible", has=page.locator(".widget-slider"))
    image = cell.locator("figure img")
    seen = [image.get_attribute("src")]
    for move in (
        lambda: cell.locator(".noUi-handle").first.press("ArrowRight"),
        lambda: cell.locator("select").last.select_option(index=1),
    ):
        move()
        sync_api.expect(image).not_to_have_attribute("src", seen[-1], timeout=MINUTES)
        seen.append(image.get_attribute("src"))
    assert len(set(seen)) == 3
    saved = notebook.saved()
    assert_clean(saved)
    assert seen[-1] in html_of(saved)
    assert seen[0] not in html_of(saved)


def test_the_stop_button_interrupts_training_and_the_next_run_resumes(opened, page, project):
    notebook = opened("train")
    notebook.edit_parameters("\nrun = 7\nepochs = 3\ntrain_images = 128")
    folder = project / "outputs" / "run7" / "seed0-epochs3-images128"
    page.evaluate("() => void jupyterapp.commands.execute('notebook:run-all-cells')")
    end = time.monotonic() + 180
    while not (folder / "unfinished" / "checkpoint.pt").exists():
        assert time.monotonic() < end
        page.wait_for_timeout(50)
    page.locator(".jp-NotebookPanel-toolbar [data-jp-item-name=interrupt]:visible").click()
    # the page may hear of it late on a busy machine, and its last word on the kernel be that of the
    # cell before
    page.wait_for_function(
        "jupyterapp.shell.currentWidget.content.widgets.some("
        "w => w.model.type === 'code' && "
        "w.model.outputs.toJSON().some(o => o.output_type === 'error'))",
        timeout=MINUTES,
    )
    stopped = notebook.saved()
    errors = [o for o in outputs(stopped) if o.output_type == "error"]
    assert len(errors) == 1
    said = "".join(errors[0].traceback)
    assert re.search(r"\d of 3 epochs are saved in .*\. Run it again", said)
    assert not (folder / "record.json").exists()
    below = str(outputs(stopped)[-2:])  # no line of progress piles up under the figure
    assert "Stopped in epoch" in below
    assert "epoch 0.0 of" not in str(outputs(stopped))

    notebook.run_all()
    assert_clean(notebook.saved())
    record = records.read_record(folder)
    assert [session["first_epoch"] > 1 for session in record["sessions"]] == [False, True]

    notebook.run_all()  # nothing is trained unasked
    again = notebook.saved()
    assert_clean(again)
    assert "**This run is finished**" in str(outputs(again)[0])
    assert records.read_record(folder) == record


ENDINGS = {"article": "html", "paper": "pdf", "paper_tex": "tex"}


def test_all_that_labs_menu_offers_works_and_gives_the_command_lines_bytes(lab, project, tmp_path):
    shutil.copy(project_root() / "outputs" / "notebooks" / "explore.ipynb", project)
    server, token = re.match(r"(.+?)/lab/.*token=(\w+)", lab).groups()

    def get(path: str) -> bytes:
        headers = {"Authorization": f"token {token}"}
        with urlopen(Request(f"{server}/{path}", headers=headers)) as answer:
            return answer.read()

    offered = set(json.loads(get("api/nbconvert")))
    assert {"article", "paper", "paper_tex", "html", "latex", "rst", "asciidoc"} <= offered
    assert not {"webpdf", "qtpdf", "qtpng"} & offered
    assert ("pdf" in offered) == bool(shutil.which("xelatex"))
    for name in sorted(offered - {"custom", "pdf", *ENDINGS}):
        get(f"nbconvert/{name}/explore.ipynb?download=true")
    for name, ending in ENDINGS.items():
        answer = get(f"nbconvert/{name}/explore.ipynb?download=true")
        elsewhere = tmp_path / "deep" / name
        elsewhere.mkdir(parents=True)
        shutil.copy(project / "explore.ipynb", elsewhere)
        command = [sys.executable, "-m", "nbconvert", f"--to={name}", "explore.ipynb"]
        environment = os.environ | {"TZ": "Asia/Tokyo", "PYTHONPATH": str(project)}
        subprocess.run(command, cwd=elsewhere, env=environment, check=True)
        if name == "paper_tex":
            parts = zipfile.ZipFile(io.BytesIO(answer))
            assert len(parts.namelist()) >= 3
            assert (elsewhere / "explore-1.pdf").exists()
            answer = parts.read("explore.tex")
        assert (elsewhere / f"explore.{ending}").read_bytes() == answer
