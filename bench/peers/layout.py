#!/usr/bin/env python3
"""What one would write without Leafcutter: PyMuPDF renders, RapidLayout detects, Pillow cuts and draws. One process.

  layout.py --out DIR [--threads N] [--dpi 108] [--score 0.4] FILE.pdf[#PAGES] ...

PAGES are numbers from 1 between commas, every page where there are none. DIR receives a PNG of each box and of each
page with its boxes drawn, and boxes.jsonl, a line for each box: file (as given, without PAGES), page (from 1), class,
score, rect [x0,y0,x1,y1] in pixels of the page image, origin top left. The last line on stdout is a JSON object: pages,
boxes, seconds, peak_bytes, and parts, the seconds spent in render, detect and write. Starting up is not in seconds.
"""
import argparse
import json
import pathlib
import resource
import sys
import time

import numpy
import pymupdf
from PIL import Image, ImageDraw
from rapid_layout import RapidLayout


def selected(job):
    """The file and the page numbers, from 0, of one argument."""
    path, _, pages = job.partition("#")
    doc = pymupdf.open(path)
    return path, doc, [int(n) - 1 for n in pages.split(",")] if pages else range(doc.page_count)


def render(page, dpi):
    """The page as RGB, height × width × 3."""
    shown = page.get_pixmap(dpi=dpi, alpha=False, colorspace=pymupdf.csRGB)
    return numpy.frombuffer(shown.samples, numpy.uint8).reshape(shown.h, shown.w, 3)


def detect(engine, rgb):
    """Boxes as (class, score, rect)."""
    found = engine(rgb[:, :, ::-1])  # OpenCV's order of channels
    if found.boxes is None:
        return []
    return [(str(c), float(s), [float(v) for v in b]) for b, s, c in zip(found.boxes, found.scores, found.class_names)]


def write(out, name, rgb, boxes):
    """The crops, and the page with its boxes drawn."""
    image = Image.fromarray(rgb)
    for k, (_, _, (x0, y0, x1, y1)) in enumerate(boxes):
        image.crop((x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))).save(out / f"{name}-{k:03}.png")
    pen = ImageDraw.Draw(image)
    for kind, score, (x0, y0, x1, y1) in boxes:
        pen.rectangle((x0, y0, max(x1, x0), max(y1, y0)), outline=(220, 0, 0), width=2)
        pen.text((x0, y0 - 12), f"{kind} {score:.2f}", fill=(220, 0, 0))
    image.save(out / f"{name}.png")


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--out", type=pathlib.Path, required=True)
    args.add_argument("--threads", type=int, default=1)
    args.add_argument("--dpi", type=int, default=108)
    args.add_argument("--score", type=float, default=0.4)
    args.add_argument("jobs", nargs="+")
    args = args.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    engine = RapidLayout(
        conf_thresh=args.score, engine_cfg={"intra_op_num_threads": args.threads, "inter_op_num_threads": 1}
    )
    engine(numpy.full((1188, 918, 3), 255, numpy.uint8))  # the first run is slower than those after it

    pages = total = 0
    parts = dict.fromkeys(("render", "detect", "write"), 0.0)
    started, cpu = time.perf_counter(), time.process_time()
    with open(args.out / "boxes.jsonl", "w") as lines:
        for job in args.jobs:
            path, doc, numbers = selected(job)
            for n in numbers:
                t0 = time.perf_counter()
                rgb = render(doc[n], args.dpi)
                t1 = time.perf_counter()
                boxes = detect(engine, rgb)
                t2 = time.perf_counter()
                write(args.out, f"{pathlib.Path(path).stem}-{n + 1:04}", rgb, boxes)
                for kind, score, rect in boxes:
                    lines.write(json.dumps({"file": path, "page": n + 1, "class": kind, "score": score, "rect": rect}) + "\n")
                t3 = time.perf_counter()
                pages, total = pages + 1, total + len(boxes)
                for part, spent in zip(parts, (t1 - t0, t2 - t1, t3 - t2)):
                    parts[part] += spent
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    said = {"pages": pages, "boxes": total, "seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak, "parts": parts}
    print(json.dumps(said))


if __name__ == "__main__":
    main()
