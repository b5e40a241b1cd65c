"""Typesets leafcutter.pdf, the document that `make run` puts through.

    pip install reportlab==5.1.0 && python3 docs/samples/leafcutter.py

A short technical note of four pages in two columns, with the parts that the default model knows: titles, text, a
figure and a table with captions, an equation, header, footer and references. Its headings are in the outline too, so
that what was found can be compared with what is there. The same input gives the same bytes.
"""

import pathlib

from reportlab.graphics.shapes import Drawing, Line, Rect, String
from reportlab.lib import colors
from reportlab.lib.enums import TA_CENTER, TA_JUSTIFY
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.platypus import (BaseDocTemplate, Flowable, Frame, FrameBreak, KeepTogether, NextPageTemplate,
                                PageBreak, PageTemplate, Paragraph, Spacer, Table, TableStyle)

TITLE = "Cutting What Matters out of Documents"
WIDTH, HEIGHT = A4
MARGIN, GUTTER = 20 * mm, 8 * mm
COLUMN = (WIDTH - 2 * MARGIN - GUTTER) / 2
INK, LEAF = colors.HexColor("#222222"), colors.HexColor("#3a7d44")
PALE = colors.HexColor("#a8c9a0")


def style(name, **kw):
    base = dict(fontName="Times-Roman", fontSize=10.6, leading=13.6, textColor=INK)
    return ParagraphStyle(name, **{**base, **kw})


S = {
    "title": style("title", fontName="Times-Bold", fontSize=22, leading=26, alignment=TA_CENTER, spaceAfter=3 * mm),
    "author": style("author", fontSize=11, leading=14, alignment=TA_CENTER),
    "h1": style("h1", fontName="Times-Bold", fontSize=14, leading=17, spaceBefore=4.5 * mm, spaceAfter=2 * mm,
                keepWithNext=1),
    "h2": style("h2", fontName="Times-BoldItalic", fontSize=11.5, leading=14, spaceBefore=3 * mm, spaceAfter=1.2 * mm,
                keepWithNext=1),
    "text": style("text", alignment=TA_JUSTIFY, spaceAfter=1.8 * mm),
    "caption": style("caption", fontSize=9, leading=11, spaceBefore=1.4 * mm, spaceAfter=3.5 * mm),
    "code": style("code", fontName="Courier", fontSize=9, leading=12, leftIndent=6 * mm),
    "reference": style("reference", fontSize=9.4, leading=11.6, leftIndent=5 * mm, firstLineIndent=-5 * mm,
                       spaceAfter=1.2 * mm),
}


class Heading(Paragraph):
    """A heading that also stands in the document's outline."""

    def __init__(self, text, level):
        super().__init__(text, S["title" if level == 0 else f"h{level}"])
        self.level, self.plain = level, text

    def draw(self):
        canvas, key = self.canv, f"h-{self.plain}"
        canvas.bookmarkHorizontal(key, 0, self.height)
        canvas.addOutlineEntry(self.plain, key, self.level, closed=False)
        super().draw()


class Equation(Flowable):
    """distance = stride * sum over i of i * softmax(z)_i, with its number at the right edge."""

    def __init__(self, number):
        super().__init__()
        self.number, self.width, self.height = number, COLUMN, 15 * mm

    def draw(self):
        c, y, x = self.canv, 6.5 * mm, COLUMN / 2 - 22 * mm

        def put(text, font="Times-Italic", size=11.5, dx=0.0, dy=0.0, advance=True):
            nonlocal x
            c.setFont(font, size)
            c.drawString(x + dx, y + dy, text)
            if advance:
                x += c.stringWidth(text, font, size) + dx

        c.setFillColor(INK)
        put("d")
        put("  =  ", "Times-Roman")
        put("s", dx=0.5)
        put(" \u00b7 ", "Times-Roman")
        put("7", "Times-Roman", 7, dx=6, dy=13, advance=False)
        put("i", "Times-Italic", 7, dx=2.5, dy=-10, advance=False)
        put("= 0", "Times-Roman", 7, dx=6, dy=-10, advance=False)
        put("\u2211", "Symbol", 19, dx=1, dy=-2.5)
        put("i", dx=4)
        c.setLineWidth(0.7)
        x += 6
        width = 62
        c.line(x, y + 3.5, x + width, y + 3.5)
        left = x
        x = left + 20
        put("e", dy=8)
        put("z", "Times-Italic", 8, dx=0.5, dy=13)
        put("i", "Times-Italic", 6, dy=11.5)
        x = left + 10
        put("\u2211", "Symbol", 13, dy=-9.5)
        put("j", "Times-Italic", 7, dx=0.5, dy=-12)
        put("e", dx=4, dy=-8.5)
        put("z", "Times-Italic", 8, dx=0.5, dy=-4)
        put("j", "Times-Italic", 6, dy=-5.5)
        c.setFont("Times-Roman", 10)
        c.drawRightString(COLUMN, y, f"({self.number})")


def bars():
    """Milliseconds a page: the graph as shipped and the rewritten one, by threads."""
    d = Drawing(COLUMN, 58 * mm)
    left, bottom, top, most = 11 * mm, 9 * mm, 50 * mm, 150
    scale = (top - bottom) / most
    for value in range(0, most + 1, 25):
        y = bottom + value * scale
        d.add(Line(left, y, COLUMN, y, strokeColor=colors.HexColor("#cccccc"), strokeWidth=0.4))
        d.add(String(left - 1.5 * mm, y - 2.4, str(value), fontName="Helvetica", fontSize=7, textAnchor="end"))
    groups = [("one thread", 134, 60), ("two threads", 73, 34)]
    step = (COLUMN - left) / len(groups)
    for n, (label, shipped, rewritten) in enumerate(groups):
        x = left + n * step + step / 2
        for dx, value, fill in ((-11 * mm, shipped, PALE), (1 * mm, rewritten, LEAF)):
            d.add(Rect(x + dx, bottom, 10 * mm, value * scale, fillColor=fill, strokeColor=INK, strokeWidth=0.4))
            d.add(String(x + dx + 5 * mm, bottom + value * scale + 2, str(value), fontName="Helvetica", fontSize=7.5,
                         textAnchor="middle"))
        d.add(String(x, bottom - 4.5 * mm, label, fontName="Helvetica", fontSize=8, textAnchor="middle"))
    for x, label, fill in ((COLUMN - 42 * mm, "as shipped", PALE), (COLUMN - 20 * mm, "rewritten", LEAF)):
        d.add(Rect(x, 53.4 * mm, 3 * mm, 3 * mm, fillColor=fill, strokeColor=INK, strokeWidth=0.4))
        d.add(String(x + 4.2 * mm, 53.7 * mm, label, fontName="Helvetica", fontSize=7.5))
    d.add(String(0, 53.7 * mm, "milliseconds a page", fontName="Helvetica", fontSize=7.5))
    d.add(Line(left, bottom, COLUMN, bottom, strokeColor=INK, strokeWidth=0.8))
    return d


def memory():
    """Resident megabytes by the runtime's two memory switches: horizontal bars."""
    d = Drawing(COLUMN, 40 * mm)
    left, most = 30 * mm, 340
    scale = (COLUMN - left - 8 * mm) / most
    rows = [("arena, no pattern", 63), ("arena, pattern", 90), ("neither", 187), ("pattern, no arena", 328)]
    for n, (label, value) in enumerate(rows):
        y = 31 * mm - n * 8 * mm
        d.add(String(left - 2 * mm, y + 1.6 * mm, label, fontName="Helvetica", fontSize=7.5, textAnchor="end"))
        d.add(Rect(left, y, value * scale, 5 * mm, fillColor=LEAF if n == 0 else PALE, strokeColor=INK,
                   strokeWidth=0.4))
        d.add(String(left + value * scale + 1.5 * mm, y + 1.6 * mm, f"{value} MB", fontName="Helvetica", fontSize=7.5))
    d.add(Line(left, 5 * mm, left, 38 * mm, strokeColor=INK, strokeWidth=0.8))
    return d


def flow():
    """The five stages and the topics between them, across both columns."""
    wide = WIDTH - 2 * MARGIN
    d = Drawing(wide, 34 * mm)
    stages = [("ingest-api", "stores and hashes"), ("planner", "counts, chooses"), ("splitter", "renders pages"),
              ("detector", "finds boxes"), ("annotator", "cuts and draws"), ("recorder", "lands rows")]
    topics = ["documents", "page-ranges", "pages", "detections", "results"]
    gap = 8.5 * mm
    box = (wide - gap * (len(stages) - 1)) / len(stages)
    for n, (name, does) in enumerate(stages):
        x = n * (box + gap)
        d.add(Rect(x, 12 * mm, box, 14 * mm, rx=2, ry=2, fillColor=LEAF if name == "detector" else PALE,
                   strokeColor=INK, strokeWidth=0.6))
        ink = colors.white if name == "detector" else INK
        d.add(String(x + box / 2, 20 * mm, name, fontName="Helvetica-Bold", fontSize=8, textAnchor="middle",
                     fillColor=ink))
        d.add(String(x + box / 2, 15.5 * mm, does, fontName="Helvetica", fontSize=6, textAnchor="middle",
                     fillColor=ink))
        if n < len(topics):
            d.add(Line(x + box + 1, 19 * mm, x + box + gap - 4, 19 * mm, strokeColor=INK, strokeWidth=0.8))
            for dy in (-2.2, 2.2):
                d.add(Line(x + box + gap - 5, 19 * mm + dy, x + box + gap - 1, 19 * mm, strokeColor=INK,
                           strokeWidth=0.8))
            y = 29.5 * mm if n % 2 == 0 else 6.5 * mm
            d.add(String(x + box + gap / 2, y, topics[n], fontName="Courier", fontSize=7, textAnchor="middle"))
    return d


def table():
    rows = [["Step", "Bound by", "ms"],
            ["Render, MuPDF, 108 dpi", "memory", "7\u201310"],
            ["Encode PNG, best speed", "one core", "30\u201336"],
            ["Encode JPEG, quality 90", "one core", "21"],
            ["Scale and normalise", "memory", "12"],
            ["Run the model", "one core", "60"],
            ["Decode, suppress", "one core", "2"]]
    t = Table(rows, colWidths=[COLUMN * 0.55, COLUMN * 0.27, COLUMN * 0.18], rowHeights=5.4 * mm)
    t.setStyle(TableStyle([
        ("FONT", (0, 0), (-1, 0), "Times-Bold", 9), ("FONT", (0, 1), (-1, -1), "Times-Roman", 9),
        ("ALIGN", (2, 0), (2, -1), "RIGHT"), ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
        ("LINEABOVE", (0, 0), (-1, 0), 0.9, INK), ("LINEBELOW", (0, 0), (-1, 0), 0.5, INK),
        ("LINEBELOW", (0, -1), (-1, -1), 0.9, INK), ("ROWBACKGROUNDS", (0, 1), (-1, -1), [colors.white,
                                                                                        colors.HexColor("#f1f6ef")]),
    ]))
    return t


def wide_table():
    rows = [["Columns", "Type", "Meaning"],
            ["document_id, title", "UUID, text", "the document, and the name that it was given"],
            ["run_id, model", "UUID, text", "one pass of one model with one set of options"],
            ["page, k", "integers", "page and number of the box on it, both from 1"],
            ["class, score", "text, 0 to 1", "what it is, and how sure the model is"],
            ["x0, y0, x1, y1", "pixels", "left, top, right and bottom edge"],
            ["dpi, width, height", "integers", "resolution and size of the page image"],
            ["text", "text", "the words inside, where the page has a text layer"],
            ["crop_key, image_key", "object keys", "the cut-out image, and the page that it was cut from"],
            ["annotated_key", "object key", "the page with all its boxes drawn"],
            ["submitted_at, detected_at", "times", "when the document came, and when the box was found"]]
    wide = WIDTH - 2 * MARGIN
    t = Table(rows, colWidths=[wide * 0.3, wide * 0.18, wide * 0.52], rowHeights=6.4 * mm)
    t.setStyle(TableStyle([
        ("FONT", (0, 0), (-1, 0), "Times-Bold", 10), ("FONT", (0, 1), (0, -1), "Courier", 8.6),
        ("FONT", (1, 1), (-1, -1), "Times-Roman", 10), ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
        ("LINEABOVE", (0, 0), (-1, 0), 0.9, INK), ("LINEBELOW", (0, 0), (-1, 0), 0.5, INK),
        ("LINEBELOW", (0, 1), (-1, -2), 0.25, colors.HexColor("#bbbbbb")), ("LINEBELOW", (0, -1), (-1, -1), 0.9, INK),
    ]))
    return t


def states():
    rows = [["State", "Meaning", "Ends"],
            ["queued", "accepted, not yet planned", "no"],
            ["running", "pages are on their way", "no"],
            ["waiting-for-model", "nobody serves the model", "no"],
            ["completed", "every page is done", "yes"],
            ["completed_with_failures", "some failed, and say why", "yes"],
            ["failed", "no page could be read", "yes"],
            ["cancelled", "stopped by its owner", "yes"]]
    t = Table(rows, colWidths=[COLUMN * 0.42, COLUMN * 0.47, COLUMN * 0.11], rowHeights=5.2 * mm)
    t.setStyle(TableStyle([
        ("FONT", (0, 0), (-1, 0), "Times-Bold", 8), ("FONT", (0, 1), (0, -1), "Courier", 6.6),
        ("FONT", (1, 1), (-1, -1), "Times-Roman", 7.8), ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
        ("GRID", (0, 0), (-1, -1), 0.4, colors.HexColor("#999999")), ("BACKGROUND", (0, 0), (-1, 0), PALE),
        ("LEFTPADDING", (0, 0), (-1, -1), 3), ("RIGHTPADDING", (0, 0), (-1, -1), 3),
    ]))
    return t


def p(text, name="text"):
    return Paragraph(" ".join(text.split()), S[name])


def story():
    yield Heading(TITLE, 0)
    yield p("A note on finding titles, tables and figures at the pace of a printing press", "author")
    yield p("<i>The Leafcutter authors</i>", "author")
    yield FrameBreak()
    yield Heading("Abstract", 1)
    yield p("""A page of a report is mostly white. What a reader wants from it is small: the headings, one table, a
    figure and the sentence below it. We describe a pipeline that cuts those parts out of documents as they arrive,
    keeps the memory-heavy model in a process of its own, and writes each object that it finds as an image, as a box on
    the page and as a row that a query can reach while the document is still being read.""")
    yield Heading("1 Introduction", 1)
    yield p("""Layout detection is often tried in a web process: a request comes in, a model is loaded, pages are
    rendered one after the other, and the answer is sent when the last is done. It works for one document. With two, the
    second waits for the first; with a long one, the connection ends before the work does; and a model of a few hundred
    megabytes decides how large every process must be.""")
    yield p("""Leafcutter ants solve a similar problem. Those that cut are not those that carry, and those that carry
    are not those that tend the garden. Each kind is as large as its work needs, and the trail between them holds what
    has not been done yet. A log of records is such a trail.""")
    yield Heading("2 The trail", 1)
    yield p("""Every stage reads one topic and writes another (Figure 1). A record holds references and facts and never
    an image: pages and crops lie in an object store, under names that follow from their content. So a stage that is
    stopped in the middle and does its work again writes the same names and the same rows, and nothing is counted
    twice.""")
    yield Heading("2.1 Ranges and fairness", 2)
    yield p("""The planner opens a document once, counts its pages and cuts them into ranges of sixteen. The first range
    goes by the short way and the rest by the long one, and a stage gives the short way four slots in five. A letter
    therefore never waits for a book, and a book shows its first pages at once.""")
    yield Heading("2.2 Failure of a page", 2)
    yield p("""A page that cannot be rendered fails alone. Its record names a code, such as <font face="Courier"
    size="8.5">page-too-large</font> or <font face="Courier" size="8.5">render-timeout</font>, and the run ends as
    completed with failures. Table 2 lists the states that a run may be in; only four of them are final.""")
    yield Heading("3 The model", 1)
    yield p("""The default model is a PicoDet detector with an LCNet backbone [2, 3], trained on the CDLA classes. It
    reads a page of 800 by 608 pixels and answers at four strides. Each side of a box is a distribution over eight bins,
    as proposed for the generalized focal loss [1], and its distance from the centre of the cell is the expectation of
    that distribution times the stride <i>s</i>:""")
    yield Equation(1)
    yield p("""where <i>z</i> are the eight outputs for that side. Boxes of one class that overlap by more than half of
    their union are reduced to the best one, and a second pass does the same across classes, since a heading is often
    found both as a title and as text.""")
    yield Heading("3.1 A cheaper activation", 2)
    yield p("""The graph as published writes each of its 94 hard-swish activations as four operators: an addition, a
    clip, a product and a division. Written as a hard sigmoid and one product, the same function runs on faster kernels.
    The outputs agree to four decimals, and a page takes less than half the time (Figure 2).""")
    yield KeepTogether([Spacer(1, 2 * mm), bars(),
                        p("<b>Figure 2.</b> Time of one page in the model, before and after the rewrite. Two cores, the "
                          "smallest of many runs.", "caption")])
    yield Heading("4 Where the time goes", 1)
    yield p("""With the model made cheap, its surroundings begin to matter. Table 1 gives the time that each step takes
    for one page of 893 by 1263 pixels on one core. Encoding the image of a page is half as costly as understanding it,
    so page images are written once, at the fastest setting, and shared by every run of the document.""")
    yield KeepTogether([Spacer(1, 3 * mm), p("<b>Table 1.</b> Milliseconds for each step of one page.", "caption"),
                        table(), Spacer(1, 4 * mm)])
    yield p("""Memory follows a different rule. The arena of the runtime never gives back what it took, which is a fault
    when shapes vary and a virtue when they do not: with a fixed input the arena is small, steady, and smaller than the
    alternatives that we tried. A detector process is therefore as large on its last page as it was on its first.""")
    yield KeepTogether([Spacer(1, 2 * mm), memory(),
                        p("<b>Figure 3.</b> Memory of one session with a fixed shape, by the two switches of the runtime. "
                          "The smallest keeps the arena and drops the pattern.", "caption")])
    yield Heading("5 Questions that a query answers", 1)
    yield p("""Because boxes are kept from a low score on, a threshold is a condition and not a decision. Which documents
    have no title? What is the mean score of tables by day? Which pages failed, and why? Each is one statement over one
    view, and it may be asked while pages are still arriving.""")
    yield Heading("5.1 States of a run", 2)
    yield p("""The recorder alone says that a run is complete. It keeps one bit for each page, and when the last bit is
    set it writes the final state. Until then an accepted document is queued or running, and it is never unknown.""")
    yield KeepTogether([Spacer(1, 3 * mm), p("<b>Table 2.</b> The states of a run.", "caption"), states(),
                        Spacer(1, 4 * mm)])
    yield Heading("6 Names that follow from content", 1)
    yield p("""A document, a run, a page and a crop are named by what they are. The name of a run is a digest of the
    document, the model and every option that changes a result; the name of a crop is a digest of the page image and the
    rectangle. Writing a thing twice therefore writes one thing, and a reader that holds a name from a row always finds
    the object, because the row lands only after the object exists.""")
    yield Heading("6.1 Replays", 2)
    yield p("""Replaying a topic from its first record is a test that anyone can run: no answer may change, no object may
    change, and no message about completion may be sent a second time. The version of a row comes from the record that
    caused it and never from the time at which it was inserted, so that the order of two attempts does not matter.""")
    yield Heading("7 Limits", 1)
    yield p("""Listings of program code are sometimes taken for a title or a figure, and bold words at the start of a
    paragraph are missed as headings. Scanned pages carry no text layer, so their boxes have no text. A box may cut one
    to three pixels off a descender; crops are padded for that reason, and the exact box stays in the record.""")
    yield FrameBreak()
    yield Heading("8 Conclusion", 1)
    yield p("""A pipeline in which each part is as large as its work needs is easy to reason about: what has not been
    done is on the trail, what was done has a name, and what went wrong says so. The rest is cutting leaves.""")
    yield Heading("References", 1)
    for n, text in enumerate((
            "X. Li, W. Wang, L. Wu, S. Chen, X. Hu, J. Li, J. Tang, J. Yang. Generalized Focal Loss: Learning Qualified "
            "and Distributed Bounding Boxes for Dense Object Detection. <i>NeurIPS</i>, 2020.",
            "G. Yu, Q. Chang, W. Lv and others. PP-PicoDet: A Better Real-Time Object Detector on Mobile Devices. "
            "<i>arXiv:2111.00902</i>, 2021.",
            "C. Cui, T. Gao, S. Wei and others. PP-LCNet: A Lightweight CPU Convolutional Neural Network. "
            "<i>arXiv:2109.15099</i>, 2021.",
            "S. Ren, K. He, R. Girshick, J. Sun. Faster R-CNN: Towards Real-Time Object Detection with Region Proposal "
            "Networks. <i>NeurIPS</i>, 2015."), 1):
        yield p(f"[{n}] {text}", "reference")
    yield NextPageTemplate("wide")
    yield PageBreak()
    yield Heading("Appendix: what is known of a box", 1)
    yield p("""Each object that the model finds becomes one row of the view <font face="Courier"
    size="9.5">detections</font>. Table 3 lists its columns. Coordinates are pixels of the page image, with the origin at
    its top left corner; divide by the width and the height for fractions of the page, or multiply by 72 and divide by
    the resolution for points.""")
    yield KeepTogether([Spacer(1, 3 * mm), p("<b>Table 3.</b> Columns of the view.", "caption"),
                        wide_table(), Spacer(1, 5 * mm)])
    yield Heading("An example", 2)
    yield p("""The tables of all documents that were submitted since yesterday, the surest first, with a link to the
    image of each:""")
    for line in ("SELECT title, page, round(score, 2) AS sure, crop_key", "FROM leafcutter.detections",
                 "WHERE class = 'table' AND submitted_at > now() - INTERVAL 1 DAY", "ORDER BY score DESC"):
        yield p(line, "code")


def page(canvas, doc):
    canvas.saveState()
    canvas.setFillColor(INK)
    canvas.setFont("Times-Italic", 8.5)
    if doc.page > 1:
        canvas.drawString(MARGIN, HEIGHT - 13 * mm, "Leafcutter technical note")
        canvas.drawRightString(WIDTH - MARGIN, HEIGHT - 13 * mm, TITLE)
        canvas.setLineWidth(0.4)
        canvas.line(MARGIN, HEIGHT - 15 * mm, WIDTH - MARGIN, HEIGHT - 15 * mm)
    canvas.setFont("Times-Roman", 9)
    canvas.drawCentredString(WIDTH / 2, 11 * mm, str(doc.page))
    if doc.page == 1:
        canvas.setLineWidth(0.6)
        figure = flow()
        figure.drawOn(canvas, MARGIN, 26 * mm)
        caption = p("<b>Figure 1.</b> The stages and the topics between them. Any client may write to the first topic; "
                    "every stage can fail, stop and be replayed by itself.", "caption")
        _, height = caption.wrap(WIDTH - 2 * MARGIN, 20 * mm)
        caption.drawOn(canvas, MARGIN, 24 * mm - height + 1.4 * mm)
    canvas.restoreState()


def columns(bottom, top):
    return [Frame(MARGIN + n * (COLUMN + GUTTER), bottom, COLUMN, top - bottom, 0, 0, 0, 0) for n in (0, 1)]


def main():
    out = pathlib.Path(__file__).with_name("leafcutter.pdf")
    doc = BaseDocTemplate(str(out), pagesize=A4, title=TITLE, author="The Leafcutter authors", invariant=1,
                          pageCompression=1)
    head = Frame(MARGIN, HEIGHT - 66 * mm, WIDTH - 2 * MARGIN, 44 * mm, 0, 0, 0, 0)
    doc.addPageTemplates([
        PageTemplate("first", [head, *columns(64 * mm, HEIGHT - 64 * mm)], onPage=page),
        PageTemplate("wide", [Frame(MARGIN, 20 * mm, WIDTH - 2 * MARGIN, HEIGHT - 40 * mm, 0, 0, 0, 0)], onPage=page),
        PageTemplate("rest", columns(20 * mm, HEIGHT - 20 * mm), onPage=page),
    ])
    doc.build([NextPageTemplate("rest"), *story()])


if __name__ == "__main__":
    main()
