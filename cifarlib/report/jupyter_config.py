"""What `make lab` sets for JupyterLab, its terminals and nbconvert: the environment's programs and
pandoc are found, and an export that needs a TeX or a browser is not offered in vain."""

import os
import shutil
import sys

import pypandoc

programs = [os.path.dirname(file) for file in (sys.executable, pypandoc.get_pandoc_path())]
os.environ["PATH"] = os.pathsep.join([programs[0], os.environ["PATH"], programs[1]])
c = get_config()  # noqa: F821
c.PDFExporter.enabled = shutil.which("xelatex") is not None
# the browser would be one that playwright or Qt bring; `paper` is typeset without
c.WebPDFExporter.enabled = c.QtPDFExporter.enabled = c.QtPNGExporter.enabled = False
