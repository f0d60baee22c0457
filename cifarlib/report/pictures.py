"""The pictures of a notebook: which files browsers and Typst read, and how wide they are on a
page."""

import io
import re

from bs4 import Tag
from PIL import Image

# of the text on a page, in a browser's pixels: a figure of 9.5 inches fills a line
PAGE_WIDTH, PAGE_HEIGHT = 912, 1240
PICTURES = (
    "image/svg+xml",
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "image/bmp",
    "image/tiff",
)


def readable(content: bytes | None) -> tuple[bytes, str, float, float] | None:
    """A picture that browsers and Typst read, its file's ending, width and height in pixels; None
    where it is none."""
    if not content:
        return None
    head = re.search(rb"<svg\b[^>]*>", content[:20_000])
    if head:
        tag = head[0].decode(errors="replace")
        sizes = [
            re.search(rf'\b{key}\s*=\s*["\']\s*([\d.]+)\s*(pt|px|in|cm|mm)?\s*["\']', tag)
            for key in ("width", "height")
        ]
        if all(sizes):
            units = {"pt": 96 / 72, "in": 96, "cm": 96 / 2.54, "mm": 96 / 25.4}
            width, height = (float(size[1]) * units.get(size[2], 1) for size in sizes)
        else:
            box = re.search(r'viewBox\s*=\s*["\']([^"\']*)', tag)
            numbers = re.findall(r"[\d.]+", box[1]) if box else []
            width, height = map(float, numbers[2:4]) if len(numbers) == 4 else (600, 400)
        if b'xmlns="http://www.w3.org/2000/svg"' not in content:
            content = content.replace(b"<svg", b'<svg xmlns="http://www.w3.org/2000/svg"', 1)
        return content, "svg", max(width, 1), max(height, 1)
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            if image.format not in ("PNG", "JPEG", "GIF", "WEBP"):
                image.convert("RGBA").save(file := io.BytesIO(), "PNG")
                return file.getvalue(), "png", *image.size
            return content, image.format.lower(), *image.size
    except Exception:  # Pillow raises many kinds for a file that it cannot read
        return None


def asked_size(image: Tag, key: str) -> str:
    """The width or height that an image asks for, "300" or "50%", "" if none."""
    style = re.search(rf"(?<![\w-]){key}\s*:\s*([\d.]+)\s*(px|%)", image.get("style", ""))
    asked = f"{style[1]}{style[2]}" if style else image.get(key, "")
    match = re.fullmatch(r"\s*([\d.]*\d)\s*(px|%)?\s*", asked)
    return match[1] + (match[2] or "").replace("px", "") if match else ""


def share(sizes: dict[str, str], width: float, height: float) -> float:
    """Per cent of a line that a picture takes on paper, so that it is no higher than a page."""
    asked, tall = sizes.get("width", ""), sizes.get("height", "")
    if asked.endswith("%"):
        share = float(asked[:-1])
    elif asked:
        share = 100 * float(asked) / PAGE_WIDTH
    elif tall and not tall.endswith("%"):
        share = 100 * float(tall) * width / height / PAGE_WIDTH
    else:
        share = 100 * width / PAGE_WIDTH
    return max(0.5, min(share, 100, 100 * PAGE_HEIGHT / PAGE_WIDTH * width / height))
