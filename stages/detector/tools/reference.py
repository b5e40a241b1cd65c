#!/usr/bin/env python3
"""The detector's pictures and goldens, made without any of its code.

Everything that the Go code computes is computed here a second time, plainly, in NumPy: interpolation as two matrix
products, the decoding of PicoDet's outputs, and the suppression of overlapping boxes. The goldens under testdata are
what this script found; the Go tests compare themselves with them.

  python3 -m venv v && v/bin/pip install numpy onnxruntime==1.32.0 pymupdf opencv-python-headless
  v/bin/python reference.py pages WALDEN.pdf      # ../report.png, ../testdata/*.png, from pdfcpu's pkg/testdata/WaldenFull.pdf
  v/bin/python reference.py boxes MODEL.onnx      # ../testdata/*.json
  v/bin/python reference.py tensors               # ../internal/family/testdata/*.json
"""
import json, pathlib, sys

import numpy as np

here = pathlib.Path(__file__).resolve().parent
manifest = json.loads((here / "../models/layout_cdla.json").read_text())


def axis(n, m):
    """The m × n matrix that averages n pixels into m, by the length of their overlap."""
    a, s = np.zeros((m, n)), n / m
    for i in range(m):
        for j in range(n):
            a[i, j] = max(0.0, min((i + 1) * s, j + 1) - max(i * s, j)) / s
    return a


def linear(n, m):
    """The m × n matrix that takes, for each of m pixels, the two of n around its centre, by how near they are."""
    a = np.zeros((m, n))
    for i in range(m):
        centre = min(max((i + 0.5) * n / m - 0.5, 0), n - 1)
        first = min(int(centre), max(n - 2, 0))
        a[i, first] = 1 - (centre - first)
        if n > 1:
            a[i, first + 1] = centre - first
    return a


def preprocess(rgb, m):
    """[h,w,3] uint8 to float32 [1,3,height,width]."""
    i = m["input"]
    matrix = {"area": axis, "linear": linear}[i["resize"]]
    down, across = matrix(rgb.shape[0], i["height"]), matrix(rgb.shape[1], i["width"]).T
    mean, std = np.array(i["mean"]), np.array(i["std"])
    planes = [(down @ rgb[:, :, c].astype(float) @ across / 255 - mean[c]) / std[c] for c in range(3)]
    return np.stack(planes).astype(np.float32)[None]


def overlap(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def decode(outputs, width, height, m):
    """outputs: scores and boxes, head by head. Boxes as (class, score, [x0,y0,x1,y1]) in pixels of the page."""
    classes, nms, bins = m["classes"], m["nms"], m["options"]["bins"]
    iw, ih = m["input"]["width"], m["input"]["height"]
    found = []
    for h, head in enumerate(m["options"]["heads"]):
        s, scores, boxes = head["stride"], outputs[2 * h][0], outputs[2 * h + 1][0]
        across = -(-iw // s)
        for cell, cls in zip(*np.where(scores >= np.float32(m["score_floor"]))):
            logits = boxes[cell].reshape(4, bins).astype(float)
            p = np.exp(logits - logits.max(1, keepdims=True))
            left, top, right, bottom = (p / p.sum(1, keepdims=True)) @ np.arange(bins) * s
            x, y = (cell % across + 0.5) * s, (cell // across + 0.5) * s
            box = [(x - left) * width / iw, (y - top) * height / ih, (x + right) * width / iw, (y + bottom) * height / ih]
            box = [min(max(v, 0.0), lim) for v, lim in zip(box, (width, height, width, height))]
            found.append((float(scores[cell, cls]), h, int(cell), int(cls), box))
    found.sort(key=lambda f: (-f[0], f[1], f[2], f[3]))
    found = found[: nms["candidates"]]
    prefer = nms.get("prefer", {})
    found.sort(key=lambda f: not f[0] >= prefer.get(classes[f[3]], 2))
    kept = []
    for f in found:
        if f[4][2] > f[4][0] and f[4][3] > f[4][1] and not any(
                overlap(f[4], k[4]) > (nms["iou"] if k[3] == f[3] else nms["cross_class_iou"]) for k in kept):
            kept.append(f)
    kept.sort(key=lambda f: -f[0])
    out = [(classes[f[3]], round(f[0], 5), [round(v, 2) for v in f[4]]) for f in kept[: nms["max_boxes"]]]
    return sorted(out, key=lambda b: (-b[1], b[0], b[2]))


def dump(path, value):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value) + "\n")
    print(path, path.stat().st_size, "bytes")


def boxes_json(found):
    return [{"class": c, "score": s, "box": b} for c, s, b in found]


def write_png(path, rgb):
    import cv2
    grey = (rgb == rgb[:, :, :1]).all()
    cv2.imwrite(str(path), rgb[:, :, 0] if grey else rgb[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    print(path, rgb.shape, path.stat().st_size, "bytes")


def pages(walden):
    import pymupdf

    def rgb(page):
        p = page.get_pixmap(dpi=108, alpha=False, colorspace=pymupdf.csRGB)
        return np.frombuffer(p.samples, np.uint8).reshape(p.h, p.w, 3)

    # A chapter of Thoreau's Walden (1854, in the public domain): title, text, page number.
    write_png(here / "../testdata/walden.png", rgb(pymupdf.open(walden)[62]))

    # A made-up report: headings, text, a table and a chart with their captions.
    doc = pymupdf.open()
    page = doc.new_page(width=612, height=792)
    text = lambda x, y, s, size=10, font="tiro": page.insert_text((x, y), s, fontsize=size, fontname=font)
    para = lambda y, s: page.insert_textbox((72, y, 540, y + 120), s, fontsize=10, fontname="tiro", align=3)
    text(72, 90, "Rainfall in the Upper Valley", 20, "tibo")
    text(72, 130, "1  Measurements", 14, "tibo")
    para(140, "Gauges at five stations were read at eight in the morning on every day of the year. A reading was left "
              "out where the funnel had been found blocked, which happened nine times, and days without a reading were "
              "filled with the mean of the two nearest stations. The totals by quarter are given in Table 1.")
    text(190, 220, "Table 1: Rainfall by station and quarter, in millimetres", 9)
    rows = [["Station", "Jan-Mar", "Apr-Jun", "Jul-Sep", "Oct-Dec"], ["Bridge", "210", "164", "120", "251"],
            ["Mill", "198", "171", "133", "240"], ["Hill farm", "260", "190", "150", "301"],
            ["Quarry", "230", "181", "128", "262"], ["Weir", "205", "160", "117", "249"]]
    for r, row in enumerate(rows):
        y = 230 + 20 * r
        page.draw_line((72, y), (540, y), width=1 if r in (0, 1) else 0.4)
        for c, cell in enumerate(row):
            text(80 + 92 * c, y + 14, cell, 10, "tibo" if r == 0 else "tiro")
    page.draw_line((72, 350), (540, 350), width=1)
    text(72, 385, "2  Results", 14, "tibo")
    para(395, "The wettest quarter was the last one at every station, and the hill farm, which lies highest, had more "
              "rain than any other in each of the four. Figure 1 shows the quarters at the bridge. The dry summer is "
              "plain to see, and agrees with the low water that was noted at the weir from July to September.")
    for q, mm in enumerate((210, 164, 120, 251)):
        page.draw_rect((170 + 80 * q, 640 - mm * 0.6, 215 + 80 * q, 640), color=(0.1, 0.2, 0.5), fill=(0.3, 0.5, 0.8))
        text(182 + 80 * q, 653, "Q%d" % (q + 1), 9, "helv")
    page.draw_line((150, 480), (150, 640)), page.draw_line((150, 640), (480, 640))
    for mm in (0, 100, 200):
        text(128, 643 - mm * 0.6, str(mm), 8, "helv")
    text(200, 675, "Figure 1: Rainfall at the bridge by quarter, in millimetres", 9)
    text(303, 760, "7", 9)
    write_png(here / "../report.png", rgb(page))


def boxes(model):
    import cv2, onnxruntime

    o = onnxruntime.SessionOptions()
    o.intra_op_num_threads, o.log_severity_level = 1, 3
    s = onnxruntime.InferenceSession(model, o, providers=["CPUExecutionProvider"])
    names = [n for h in manifest["options"]["heads"] for n in (h["scores"], h["boxes"])]
    for png in [here / "../report.png", *sorted((here / "../testdata").glob("*.png"))]:
        rgb = cv2.imread(str(png))[:, :, ::-1]
        outputs = s.run(names, {manifest["input"]["name"]: preprocess(rgb, manifest)})
        dump(here / f"../testdata/{png.stem}.json", boxes_json(decode(outputs, rgb.shape[1], rgb.shape[0], manifest)))


def tensors():
    """Small outputs of PicoDet's shape and what they decode to: crowded, so that every rule of suppression applies."""
    r = np.random.default_rng(7)
    m = json.loads(json.dumps(manifest))
    m["input"].update(width=88, height=56)  # not multiples of the strides
    m["classes"], m["thresholds"], m["score_floor"] = ["text", "title", "table"], {"*": 0.4}, 0.3
    m["nms"].update(candidates=60, max_boxes=40)
    m["options"] = {"bins": 5, "heads": [{"stride": 8, "scores": "s8", "boxes": "b8"}, {"stride": 16, "scores": "s16", "boxes": "b16"}]}
    outputs = []
    for h in m["options"]["heads"]:
        cells = -(-88 // h["stride"]) * -(-56 // h["stride"])
        outputs.append(np.round(r.random((1, cells, 3)) ** 4, 3).astype(np.float32))
        outputs.append(np.round(r.normal(0, 3, (1, cells, 20)), 3).astype(np.float32))
    found = decode(outputs, 132, 70, m)
    dump(here / "../internal/family/testdata/picodet.json", {
        "manifest": m, "page": [132, 70], "boxes": boxes_json(found),
        "outputs": [{"shape": list(o.shape), "data": [float(str(v)) for v in o.ravel()]} for o in outputs]})


if __name__ == "__main__":
    command, *rest = sys.argv[1:] or ["help"]
    {"pages": pages, "boxes": boxes, "tensors": tensors}.get(command, lambda *_: sys.exit(__doc__))(*rest)
