"""A contact sheet: pictures beside what was made of them, each with two lines of text."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from unicodedata import normalize

from PIL import Image, ImageDraw, ImageFont

MOST = 60  # entries on a sheet: more are too small to be looked at
LARGE, SMALL = (
    448,
    208,
)  # pixels that each of the two pictures of an entry may be wide and high: of one entry, of several
COLUMNS = 3  # of a sheet of several entries
MARGIN = 16
TEXT = 15  # pixels of the letters
# The first that is installed is taken.
FONTS = ("DejaVuSans.ttf", "LiberationSans-Regular.ttf", "NotoSans-Regular.ttf", "Arial.ttf")
PAPER, INK, FAINT = "white", "#1a1a1a", "#5c5c5c"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Entry:
    """A picture, another one of the same size to be shown beside it, and two lines of text below."""

    picture: Image.Image
    beside: Image.Image
    title: str
    text: str


def side(entries: int) -> int:
    """How wide and high the pictures of so many entries may be."""
    return LARGE if entries == 1 else SMALL


def sheet(entries: Sequence[Entry]) -> Image.Image:
    """A sheet of 1 to MOST entries, in their order; their pictures are at most `side` wide and high."""
    columns = min(COLUMNS, len(entries))
    rows = -(-len(entries) // columns)
    edge = side(len(entries))
    width, height = 2 * edge + 4 + MARGIN, edge + round(3.2 * TEXT) + MARGIN
    if len(entries) == 1:  # a sheet that is no larger than its picture
        height += entries[0].picture.height - edge
    paper = Image.new("RGB", (columns * width + MARGIN, rows * height + MARGIN), PAPER)
    for number, entry in enumerate(entries):
        row, column = divmod(number, columns)
        _draw(paper, entry, (MARGIN + column * width, MARGIN + row * height), edge)
    return paper


def _draw(paper: Image.Image, entry: Entry, corner: tuple[int, int], edge: int) -> None:
    left, top = corner
    paper.paste(entry.picture, corner)
    paper.paste(entry.beside, (left + entry.picture.width + 4, top))
    draw, (font, spelled) = ImageDraw.Draw(paper), _letters()
    below = top + entry.picture.height + TEXT // 3
    for line, colour, tail in ((entry.text, INK, False), (entry.title, FAINT, True)):
        draw.text((left, below), _fitting(spelled(line), font, 2 * edge + 4, tail), colour, font)
        below += round(1.3 * TEXT)


@cache
def _letters() -> tuple[Font, Callable[[str], str]]:
    """A font, and how a line is spelled in it: Pillow's own has boxes for letters outside of ASCII. (Those of the system have
    them for Chinese and Japanese.)"""
    for name in FONTS:
        with suppress(OSError):
            # Not by Raqm, which refuses what separates lines or paragraphs in a file's name.
            return ImageFont.truetype(name, TEXT, layout_engine=ImageFont.Layout.BASIC), str
    return ImageFont.load_default(TEXT), _in_ascii


def _in_ascii(line: str) -> str:
    """The line without accents, and with a question mark for each letter that isn't one of ASCII's then."""
    return "".join(
        normalize("NFKD", letter).encode("ascii", "ignore").decode() or "?" for letter in normalize("NFC", line)
    )


def _fitting(line: str, font: Font, width: int, tail: bool) -> str:
    """The line, or as much of it as is no wider than so many pixels: its end if `tail`, else its beginning."""
    if font.getlength(line) <= width:
        return line
    fits = 0
    for length in range(1, len(line)):
        part = line[-length:] if tail else line[:length]
        if font.getlength(f"{part}...") > width:
            break
        fits = length
    return f"...{line[len(line) - fits :]}" if tail else f"{line[:fits]}..."
