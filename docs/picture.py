"""Draws docs/picture.svg, the picture of the README: `python docs/picture.py`.

The picture has a light background of its own, so that it is legible on light and dark pages.
"""

from html import escape
from pathlib import Path

INK, SOFT = "#1f2933", "#52606d"
BASE, OWN, SHARED, DATA = "#dbe7f5", "#d9efdf", "#fbe6cd", "#eef0f2"  # fills
WIDTH, HEIGHT = 940, 400


def text(x: float, y: float, words: str, size: int = 14, color: str = INK, weight: str = "normal") -> str:
    """One line of text, centred on x."""
    style = f'font-size="{size}" font-weight="{weight}" fill="{color}" text-anchor="middle"'
    return f'<text x="{x}" y="{y}" {style}>{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, title: str, *lines: str) -> str:
    """A rounded box with a title and lines below it."""
    top = y + height / 2 - 9 * len(lines) + 5
    shape = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{fill}" stroke="{SOFT}"/>'
    rows = [text(x + width / 2, top + 18 * (n + 1), line, 12, SOFT) for n, line in enumerate(lines)]
    return "\n".join([shape, text(x + width / 2, top, title, 14, INK, "bold"), *rows])


def arrow(path: str, x: float, y: float, *lines: str) -> str:
    """A line that ends in an arrow, and words beside it."""
    line = f'<path d="{path}" fill="none" stroke="{SOFT}" stroke-width="1.8" marker-end="url(#head)"/>'
    return "\n".join([line, *(text(x, y + 16 * n, words, 12) for n, words in enumerate(lines))])


def bank(x: float, y: float) -> str:
    """The frozen base model with the slots of its LoRA bank."""
    parts = [
        f'<rect x="{x}" y="{y}" width="240" height="150" rx="8" fill="{BASE}" stroke="{SOFT}"/>',
        text(x + 120, y + 24, "Frozen base model, W", 14, INK, "bold"),
    ]
    for slot, name in enumerate(("ada", "bela", "ciro", "...")):
        left = x + 14 + slot * 54
        parts += [
            f'<rect x="{left}" y="{y + 38}" width="50" height="54" rx="4" fill="{OWN}" stroke="{SOFT}"/>',
            text(left + 25, y + 60, "A, B" if name != "..." else "", 12),
            text(left + 25, y + 80, name, 12, SOFT),
        ]
    parts += [
        text(x + 120, y + 114, "LoRA bank: one slot per user", 13),
        text(x + 120, y + 136, "y = W x + (alpha / r) B A x", 13, SOFT),
    ]
    return "\n".join(parts)


def picture() -> str:
    """The whole picture as SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f'<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 0L10 5L0 10z" fill="{SOFT}"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="12" fill="#ffffff"/>',
        box(20, 65, 160, 80, DATA, "Histories", "what each user did:", "input and answer"),
        arrow("M180 105H290", 235, 96, "train"),
        text(235, 124, "(OPPU)", 12, SOFT),
        bank(292, 30),
        arrow("M532 105H632", 582, 96, "read the slot"),
        box(634, 65, 150, 80, OWN, "Adapter", "one user's LoRA,", "a PEFT folder"),
        arrow("M784 105H850V183", 815, 96, "use"),
        arrow("M709 145V220H545", 628, 194, "users who agree share"),
        box(382, 200, 160, 80, SHARED, "Pool", "pieces: A, B and a gate", "for each module"),
        box(20, 300, 160, 80, DATA, "New history", "of a newcomer,", "not trained on"),
        arrow("M180 340H632", 300, 331, "assemble: one pass, no training"),
        text(300, 358, "(Per-Pcs)", 12, SOFT),
        arrow("M462 280V336", 512, 314, "best 3 pieces"),
        box(634, 300, 150, 80, SHARED, "Recipe", "pieces and weights,", "1.5 kB a user"),
        arrow("M784 340H850V267", 815, 331, "use"),
        box(800, 185, 120, 80, BASE, "Answers", "in the user's", "own way"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("picture.svg").write_text(picture(), encoding="utf-8")
