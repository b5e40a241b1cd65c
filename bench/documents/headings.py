#!/usr/bin/env python3
"""Where the headings of a PDF stand, told by its outline.

  headings.py FILE.pdf ...

Prints a JSON list, for each file an object: file, entries (of the outline), missed (those not found on their page),
pages. A page is one with a heading that the outline names: page (from 1), width and height, outline and font, both
lists of lines [x0,y0,x1,y1]. Lengths are pixels at 108 dpi, the origin is the page's top left.

"outline" are the lines whose letters are those of an entry that points to the page. "font" are the lines that look like
a heading: larger than 1.12 times the size of most of the document's letters, or bold throughout and no smaller. An
outline leaves out the document's title and run-in headings, so a box on such a line is no false alarm; recall counts
"outline" alone.

Rotated pages are left out: PyMuPDF gives their text as it lies before the rotation.
"""
import collections
import json
import re
import sys

import pymupdf

DPI = 108
SAMPLED = 60  # pages that the size of most letters is taken from

Line = collections.namedtuple("Line", "letters box size bold")


def letters(text):
    """Letters and digits alone, in lower case: typesetting differs between outline and page."""
    return re.sub(r"[\W_]+", "", text.casefold())


def unnumbered(entry):
    """The entry without "Chapter 3: " or "A.2.1 ", which outlines and pages may each leave out."""
    return re.sub(r"^\s*((chapter|section|appendix|part)\s+)?[\dA-Z]?[\d.]*[.:)]?\s+", "", entry, flags=re.IGNORECASE)


def lines_of(page):
    """The horizontal lines of a page's text layer."""
    found = []
    for block in page.get_text("dict")["blocks"]:
        for line in block.get("lines", []):
            spans = [s for s in line["spans"] if s["text"].strip()]
            if not spans or abs(line["dir"][0]) < 0.99:
                continue
            bold = all(s["flags"] & 16 or re.search(r"bold|black|heavy|BX|Medi", s["font"], re.IGNORECASE) for s in spans)
            text = letters("".join(s["text"] for s in spans))
            found.append(Line(text, line["bbox"], max(s["size"] for s in spans), bold))
    return found


def body_size(doc):
    """The size in points of most of the document's letters."""
    sizes = collections.Counter()
    for number in range(min(doc.page_count, SAMPLED)):
        for line in lines_of(doc[number]):
            sizes[round(line.size, 1)] += len(line.letters)
    return sizes.most_common(1)[0][0] if sizes else 0


def union(boxes):
    x0, y0, x1, y1 = zip(*boxes)
    return min(x0), min(y0), max(x1), max(y1)


def beside(a, b):
    """Do two boxes stand on one line, such as a number and its heading?"""
    return min(a[3], b[3]) - max(a[1], b[1]) > 0.5 * min(a[3] - a[1], b[3] - b[1])


def find(entry, lines):
    """The box of the line that holds most of an entry's heading; None where it is not on the page.

    A heading may be several pieces of text, up to four in a row. Where several places have its letters (a running
    header repeats the chapter's), the largest type is the heading.
    """
    want, bare = letters(entry), letters(unnumbered(entry))
    if len(bare) < 3:
        bare = want
    best, box = 0, None
    for first in range(len(lines)):
        got = ""
        for last in range(first, min(first + 4, len(lines))):
            got += lines[last].letters
            # The page may number a heading where the outline does not. What else stands before it is another line.
            number = got.removesuffix(bare) if got.endswith(bare) and want.endswith(bare) else "no"
            if got in (want, bare) or re.fullmatch(r"(chapter|section|appendix|part)?([ivxlc]+|[a-z]?\d*)", number):
                pieces = lines[first : last + 1]
                size = max(p.size for p in pieces)
                if size > best:
                    longest = max(pieces, key=lambda p: len(p.letters))
                    best, box = size, union([p.box for p in pieces if beside(p.box, longest.box)])
                break
            if len(got) > len(want) + 12:
                break
    return box


def headings(path):
    doc = pymupdf.open(path)
    zoom = DPI / 72
    body = body_size(doc)
    by_page = collections.defaultdict(list)
    entries = missed = 0
    for _, title, number in doc.get_toc():
        if not 1 <= number <= doc.page_count or len(letters(title)) < 3 or doc[number - 1].rotation:
            continue
        entries += 1
        box = find(title, lines_of(doc[number - 1]))
        if box is None:
            missed += 1  # a plate, an entry of an index, a page without text
        elif box not in by_page[number]:
            by_page[number].append(box)
    pages = []
    for number in sorted(n for n in by_page if by_page[n]):
        page = doc[number - 1]
        pixels = lambda box: [round(v * zoom, 1) for v in box]
        large = [
            line.box
            for line in lines_of(page)
            if len(line.letters) >= 3 and (line.size > body * 1.12 or line.bold and line.size > body * 0.98)
        ]
        pages.append(
            {
                "page": number,
                "width": round(page.rect.width * zoom),
                "height": round(page.rect.height * zoom),
                "outline": [pixels(b) for b in by_page[number]],
                "font": [pixels(b) for b in large],
            }
        )
    return {"file": path, "entries": entries, "missed": missed, "pages": pages}


if __name__ == "__main__":
    json.dump([headings(path) for path in sys.argv[1:]], sys.stdout)
