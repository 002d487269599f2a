"""Draws the picture whose text the demo reads back."""

from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

WIDTH = 1120
MARGIN = 56
PAPER = (250, 248, 242)
INK = (28, 30, 38)


@dataclass(frozen=True)
class Line:
    """One line of text, as it should be read."""

    text: str
    size: int
    upside_down: bool = False


LINES = (
    Line("Weldpool serves ONNX models", 46),
    Line("from one pool of memory.", 46),
    Line("This line is upside down.", 40, upside_down=True),
    Line("Invoice 2048: 16 buffers, 4096 bytes", 34),
    Line("Total: 1234.56 EUR (paid)", 40),
)


def draw(lines=LINES):
    """Returns an RGB picture with the lines below each other."""
    strips = [_strip(line) for line in lines]
    height = 2 * MARGIN + sum(strip.height for strip in strips) + MARGIN // 2 * (len(strips) - 1)
    picture = Image.new("RGB", (WIDTH, height), PAPER)
    top = MARGIN
    for strip in strips:
        picture.paste(strip, (MARGIN, top))
        top += strip.height + MARGIN // 2
    return picture


def _strip(line):
    # Pillow carries this font itself, so the picture is the same on every machine.
    font = ImageFont.load_default(line.size)
    left, top, right, bottom = font.getbbox(line.text)
    strip = Image.new("RGB", (right - left + 8, bottom - top + 8), PAPER)
    ImageDraw.Draw(strip).text((4 - left, 4 - top), line.text, font=font, fill=INK)
    return strip.rotate(180) if line.upside_down else strip
