"""What `make lab` sets for JupyterLab, its terminals and nbconvert in them: the environment's
programs and pandoc are found, and exports that need a TeX or a browser are offered where these are.
"""

import os
import shutil
import sys

import pypandoc

folders = [os.path.dirname(sys.executable), os.environ["PATH"]]
os.environ["PATH"] = os.pathsep.join([*folders, os.path.dirname(pypandoc.get_pandoc_path())])
c = get_config()  # noqa: F821
c.PDFExporter.enabled = shutil.which("xelatex") is not None
# the browser would be one that playwright or Qt bring; `paper` is typeset without
for exporter in (c.WebPDFExporter, c.QtPDFExporter, c.QtPNGExporter):
    exporter.enabled = False
