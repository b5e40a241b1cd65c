#!/usr/bin/env python3
"""The goldens of the model families, made without any of the detector's code.

Pages are shrunk by the very libraries whose bits the Go code must give, Pillow and OpenCV. Outputs are decoded a second
time here, in NumPy. The models are tiny, of random weights, but their inputs and outputs are those of real exports.

  python3 -m venv v && v/bin/pip install numpy==1.26.4 Pillow==9.5.0 opencv-python-headless==4.8.1.78 onnx==1.16.2 onnxruntime
  v/bin/python families.py tensors      # ../internal/family/testdata/{resize,yolo,...}.json
  v/bin/python families.py models       # ../testdata/families/*: models, and what they find on two pages
"""
import hashlib, json, pathlib, sys

import cv2, numpy as np
from PIL import Image

here = pathlib.Path(__file__).resolve().parent
sha = lambda a: hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest()


def noise(w, h, seed=0):
    """A page that Go makes too: a hash of each byte's place."""
    x = np.arange(w * h * 3, dtype=np.uint32) * np.uint32(2654435761) + np.uint32(seed)
    x ^= x >> np.uint32(15)
    x *= np.uint32(2246822519)
    x ^= x >> np.uint32(13)
    return (x & np.uint32(255)).astype(np.uint8).reshape(h, w, 3)


def resize(rgb, w, h, method):
    if method == "pillow":
        return np.asarray(Image.fromarray(rgb).resize((w, h), Image.BILINEAR))
    return cv2.resize(np.ascontiguousarray(rgb), (w, h), interpolation=cv2.INTER_LINEAR)


# What each family's own code does with a page.


def letterbox(rgb, w, h, method="opencv"):
    """Ultralytics' LetterBox: the page in the middle, level 114 around it."""
    gain = min(h / rgb.shape[0], w / rgb.shape[1])
    nw, nh = max(round(rgb.shape[1] * gain), 1), max(round(rgb.shape[0] * gain), 1)
    dw, dh = (w - nw) / 2, (h - nh) / 2
    top, bottom, left, right = round(dh - 0.1), round(dh + 0.1), round(dw - 0.1), round(dw + 0.1)
    return cv2.copyMakeBorder(resize(rgb, nw, nh, method), top, bottom, left, right, cv2.BORDER_CONSTANT, value=(114,) * 3), (nw, nh, left, top)


def shortest_edge(w, h, size, longest):
    """Detectron2's ResizeShortestEdge: the size that a page is scaled to."""
    scale = size / min(w, h)
    nw, nh = (scale * w, size) if h < w else (size, scale * h)
    if max(nw, nh) > longest:
        k = longest / max(nw, nh)
        nw, nh = nw * k, nh * k
    return int(nw + 0.5), int(nh + 0.5)


def preprocess(rgb, m):
    i, family = m["input"], m["family"]
    if family in ("faster-rcnn", "mask-rcnn"):
        x = resize(rgb, *shortest_edge(rgb.shape[1], rgb.shape[0], i["shortest_edge"], i["longest_edge"]), i.get("resize", "pillow"))
        x = x.astype(np.float32).transpose(2, 0, 1)
        return x if i["channels"] == "rgb" else x[::-1]
    if family == "yolo":
        x, _ = letterbox(rgb, i["width"], i["height"], i.get("resize", "opencv"))
    else:
        x = resize(rgb, i["width"], i["height"], i.get("resize", "pillow"))
    if i["channels"] == "bgr":
        x = x[:, :, ::-1]
    x = x.astype(np.float64) / 255
    if "std" in i:
        x = (x - np.array(i["mean"])) / np.array(i["std"])
    return x.transpose(2, 0, 1)[None].astype(np.float32)


# Decoding. Boxes are rows of x0, y0, x1, y1, score, class.


def iou(a, b):
    lt, rb = np.maximum(a[:2], b[:, :2]), np.minimum(a[2:4], b[:, 2:4])
    both = np.prod(np.clip(rb - lt, 0, None), axis=1)
    return both / (np.prod(a[2:4] - a[:2]) + np.prod(b[:, 2:4] - b[:, :2], axis=1) - both)


def suppress(rows, nms):
    rows = rows[np.argsort(-rows[:, 4], kind="stable")][: nms["candidates"]]
    rows = rows[(rows[:, 2] > rows[:, 0]) & (rows[:, 3] > rows[:, 1])]
    kept = []
    while len(rows):
        first, rows = rows[0], rows[1:]
        kept.append(first)
        limit = np.where(rows[:, 5] == first[5], nms["iou"], nms["cross_class_iou"])
        rows = rows[~(iou(first, rows) > limit)]
    return np.array(kept[: nms["max_boxes"]]).reshape(-1, 6)


def to_page(rows, fx, fy, w, h):
    rows = rows.copy()
    rows[:, [0, 2]] = np.clip(rows[:, [0, 2]] * fx, 0, w)
    rows[:, [1, 3]] = np.clip(rows[:, [1, 3]] * fy, 0, h)
    return rows


def named(rows, classes):
    out = []
    for r in rows:
        box = [round(float(v), 2) for v in r[:4]]
        if box[2] > box[0] and box[3] > box[1]:
            out.append({"class": classes[int(r[5])], "score": round(float(r[4]), 5), "box": box})
    return sorted(out, key=lambda b: (-b["score"], b["class"], b["box"]))


def decode_yolo(outputs, w, h, m):
    i, (o,) = m["input"], outputs
    if m["options"].get("end_to_end"):
        rows = o[0].astype(float)
    else:
        p = o[0].T.astype(float)
        xy, half = p[:, :2], p[:, 2:4] / 2
        rows = np.column_stack([xy - half, xy + half, p[:, 4:].max(1), p[:, 4:].argmax(1)])
    rows = suppress(rows[rows[:, 4] >= np.float32(m["score_floor"])], m["nms"])
    _, (nw, nh, left, top) = letterbox(np.zeros((h, w, 3), np.uint8), i["width"], i["height"])
    rows[:, [0, 2]] -= left
    rows[:, [1, 3]] -= top
    return named(to_page(rows, w / nw, h / nh, w, h), m["classes"])


def decode_rtdetr(outputs, w, h, m):
    i = m["input"]
    if "logits" in m["options"]:
        logits, boxes = outputs[0][0].astype(float), outputs[1][0].astype(float)
        scores = 1 / (1 + np.exp(-logits))
        flat = np.argsort(-scores.ravel(), kind="stable")[: len(logits)]
        q, c = flat // logits.shape[1], flat % logits.shape[1]
        xy, half = boxes[q, :2], boxes[q, 2:] / 2
        rows = np.column_stack([xy - half, xy + half, scores.ravel()[flat], c])
        rows = to_page(rows, w, h, w, h)
    else:
        labels, boxes, scores = outputs
        rows = np.column_stack([boxes[0].astype(float), scores[0].astype(float), labels[0]])
        rows = to_page(rows, w / i["width"], h / i["height"], w, h)
    rows = rows[rows[:, 4] >= m["score_floor"]]
    return named(suppress(rows, m["nms"]), m["classes"])


def decode_rcnn(outputs, w, h, m):
    i, (boxes, classes, scores) = m["input"], outputs
    nw, nh = shortest_edge(w, h, i["shortest_edge"], i["longest_edge"])
    boxes = boxes.astype(np.float32).copy()
    boxes[:, 0::2] = np.clip(boxes[:, 0::2] * np.float32(w / nw), 0, np.float32(w))
    boxes[:, 1::2] = np.clip(boxes[:, 1::2] * np.float32(h / nh), 0, np.float32(h))
    boxes = boxes.astype(float)
    if m["options"].get("whole_pixels"):
        boxes = np.array([[round(v) for v in b] for b in boxes.tolist()], float).reshape(-1, 4)
    rows = np.column_stack([boxes, scores.astype(float), classes])
    return named(suppress(rows[rows[:, 4] >= np.float32(m["score_floor"])], m["nms"]), m["classes"])


decoders = {"yolo": decode_yolo, "rt-detr": decode_rtdetr, "faster-rcnn": decode_rcnn, "mask-rcnn": decode_rcnn}


def manifest(family, input, options, classes, **more):
    nms = {"iou": 0.7, "cross_class_iou": 1, "candidates": 1000, "max_boxes": 300}
    return {"name": family, "version": "1", "file": "model.onnx", "sha256": "0" * 64, "family": family, "input": input, "classes": classes,
            "score_floor": 0.25, "thresholds": {"*": 0.5}, "nms": {**nms, **more.pop("nms", {})}, "options": options, "provider": "cpu", **more}


def dump(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value) + "\n")
    print(path, path.stat().st_size, "bytes")


def tensors():
    to = here / "../internal/family/testdata"
    cases = []
    for method in ("pillow", "opencv"):
        for w, h, nw, nh in ((918, 1188, 800, 1035), (893, 1263, 800, 1131), (2000, 1500, 1067, 800), (640, 480, 1067, 800), (1188, 918, 640, 640),
                             (300, 900, 444, 1333), (1240, 1754, 620, 877), (640, 640, 640, 640), (918, 1188, 791, 1024), (1, 1, 3, 2),
                             (2, 3, 1, 1), (5, 4, 640, 1), (7, 300, 7, 20), (64, 64, 63, 65)):
            cases.append({"method": method, "page": [w, h], "to": [nw, nh], "sha256": sha(resize(noise(w, h, w + h), nw, nh, method))})
    dump(to / "resize.json", cases)

    r = np.random.default_rng(5)
    three, four = ["text", "title", "table"], ["text", "title", "table", "figure"]
    f32 = lambda a: np.round(a, 4).astype(np.float32)

    cells = 64 // 8 * (96 // 8) + 64 // 16 * (96 // 16) + 64 // 32 * (96 // 32)
    xywh = np.column_stack([r.uniform(-4, 68, cells), r.uniform(-4, 100, cells), r.uniform(-1, 40, cells), r.uniform(2, 40, cells)]).T
    scores = r.random((3, cells)) ** 3
    scores[1, ::7] = scores[0, ::7]  # equal classes
    m = manifest("yolo", {"name": "images", "width": 64, "height": 96, "channels": "rgb"}, {"output": "output0"}, three)
    golden(to / "yolo.json", m, (131, 77), [f32(np.vstack([xywh, scores])[None])])
    m = manifest("yolo", {"name": "images", "width": 96, "height": 64, "channels": "bgr"}, {"output": "out", "strides": [16, 32]}, three,
                 nms={"iou": 0.3, "cross_class_iou": 0.5, "candidates": 20, "max_boxes": 8})
    golden(to / "yolo_strides.json", m, (77, 131), [f32(np.vstack([xywh, scores])[None, :, :6 * 4 + 3 * 2])])

    n = 40
    corners = np.column_stack([r.uniform(-5, 90, n), r.uniform(-5, 90, n), r.uniform(0, 1, n), r.uniform(0, 1, n)])
    corners[:, 2:] = corners[:, :2] + corners[:, 2:] * 40 - 1
    rows = np.column_stack([corners, np.sort(r.random(n))[::-1], r.integers(0, 4, n)])
    rows[30:] = 0  # not used
    m = manifest("yolo", {"name": "images", "width": 96, "height": 96, "channels": "rgb"}, {"output": "output0", "end_to_end": True}, four,
                 nms={"iou": 1})
    golden(to / "yolo_end_to_end.json", m, (200, 311), [f32(rows[None])])

    logits, boxes = r.normal(-1, 2, (1, 30, 4)), np.concatenate([r.uniform(0, 1, (1, 30, 2)), r.uniform(-0.02, 0.6, (1, 30, 2))], 2)
    m = manifest("rt-detr", {"name": "pixel_values", "width": 80, "height": 64, "channels": "rgb"}, {"logits": "logits", "boxes": "pred_boxes"}, four,
                 nms={"iou": 1})
    golden(to / "rtdetr_logits.json", m, (211, 300), [f32(logits), f32(boxes)])
    corners = np.sort(r.uniform(-5, 85, (1, 30, 2, 2)), axis=2).reshape(1, 30, 4)
    m = manifest("rt-detr", {"name": "images", "width": 80, "height": 80, "channels": "rgb", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
                 {"labels": "labels", "boxes": "boxes", "scores": "scores", "sizes": "orig_target_sizes"}, four, nms={"iou": 0.6, "cross_class_iou": 0.8})
    golden(to / "rtdetr_labels.json", m, (300, 211), [r.integers(0, 4, (1, 30)), f32(corners), f32(np.sort(r.random((1, 30)))[:, ::-1])])

    for name, page, more in (("rcnn", (131, 170), {}), ("rcnn_whole", (300, 90), {"whole_pixels": True})):
        n = 25
        nw, nh = shortest_edge(*page, 80, 133)
        corners = np.sort(np.column_stack([r.uniform(-3, nw + 3, (n, 2)), r.uniform(-3, nh + 3, (n, 2))]).reshape(n, 2, 2), axis=2)
        corners = corners.transpose(0, 2, 1).reshape(n, 4)
        corners[5] = corners[4]  # the same box twice, of two classes
        corners[7, 2] = corners[7, 0]
        m = manifest("faster-rcnn", {"name": "image", "shortest_edge": 80, "longest_edge": 133, "channels": "bgr"},
                     {"boxes": "boxes", "classes": "classes", "scores": "scores", **more}, four, nms={"iou": 1})
        golden(to / (name + ".json"), m, page, [f32(corners), r.integers(0, 4, n), f32(np.sort(r.uniform(0.2, 1, n))[::-1])])
    m = manifest("mask-rcnn", m["input"], {**m["options"], "masks": "masks"}, four, nms={"iou": 1})
    golden(to / "mask_rcnn.json", m, page, [f32(np.zeros((0, 4))), np.zeros(0, int), f32(np.zeros(0))])


def golden(path, m, page, outputs):
    """A page of this size as the model's input, its outputs, and the boxes that they are."""
    rgb = noise(*page)
    x = preprocess(rgb, m)
    dump(path, {
        "manifest": m, "page": page, "input": {"shape": x.shape, "sha256": sha(x)},
        "boxes": decoders[m["family"]](outputs, *page, m),
        "outputs": [{"shape": o.shape, **({"ints": o.ravel().tolist()} if o.dtype == np.int64 else {"data": [float(str(v)) for v in o.ravel()]})}
                    for o in outputs]})


# Tiny models. Their features are the page's levels, averaged over squares, through two layers of random weights.


class Builder:
    def __init__(self, seed):
        self.r, self.nodes, self.consts, self.n = np.random.default_rng(seed), [], [], 0

    def const(self, value, dtype=np.float32):
        from onnx import numpy_helper
        self.n += 1
        self.consts.append(numpy_helper.from_array(np.asarray(value, dtype), f"c{self.n}"))
        return f"c{self.n}"

    def __call__(self, op, *inputs, out=None, outs=1, **attributes):
        from onnx import helper
        self.n += 1
        names = [out or f"v{self.n}"] if outs == 1 else [f"v{self.n}_{i}" for i in range(outs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names[0] if outs == 1 else names

    def ints(self, *values):
        return self.const(values, np.int64)

    def features(self, image, stride, channels, ceil=0):
        """[1, channels, h/stride, w/stride] of an image [1, 3, h, w] with values about 1."""
        x = self("AveragePool", image, kernel_shape=[stride, stride], strides=[stride, stride], ceil_mode=ceil)
        x = self("Sub", self.const(1), x)  # ink
        x = self("Conv", x, self.const(self.r.normal(0, 6, (8, 3, 3, 3))), self.const(self.r.normal(0, 1, 8)), pads=[1, 1, 1, 1])
        return self("Conv", self("Relu", x), self.const(self.r.normal(0, 1, (channels, 8, 1, 1))), self.const(self.r.normal(-1, 1, channels)))

    def save(self, path, inputs, outputs):
        from onnx import TensorProto, checker, helper, save
        value = lambda name, kind, shape: helper.make_tensor_value_info(name, {"f": TensorProto.FLOAT, "i": TensorProto.INT64}[kind], shape)
        m = helper.make_model(helper.make_graph(self.nodes, path.stem, [value(*v) for v in inputs], [value(*v) for v in outputs], self.consts),
                              opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
        checker.check_model(m, full_check=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        save(m, str(path))


def yolo_cells(b, w, h, classes, pages=1):
    """[pages, 4 + classes, cells] as the head of YOLO v8 gives it; 0 for as many pages as there are."""
    heads = []
    for s in (8, 16, 32):
        gw, gh = w // s, h // s
        box, scores = b("Split", b("Reshape", b.features("images", s, 4 + classes), b.ints(pages, 4 + classes, gw * gh)), b.ints(4, classes), axis=1, outs=2)
        sides = b("Mul", b("Sigmoid", box), b.const([[s * 2], [s * 2], [s * 8], [s * 4]]))
        gy, gx = np.mgrid[0:gh, 0:gw]
        grid = b.const([(gx.ravel() * s), (gy.ravel() * s), np.zeros(gw * gh), np.zeros(gw * gh)])
        heads.append(b("Concat", b("Add", sides, grid), b("Sigmoid", scores), axis=1))
    return heads


def build_yolo(path):
    b, w, h = Builder(1), 128, 160
    b("Concat", *yolo_cells(b, w, h, 3), axis=2, out="output0")
    b.save(path, [("images", "f", [1, 3, h, w])], [("output0", "f", [1, 7, w * h // 64 + w * h // 256 + w * h // 1024])])
    return manifest("yolo", {"name": "images", "width": w, "height": h, "channels": "rgb"}, {"output": "output0"}, ["text", "title", "table"],
                    score_floor=0.8, thresholds={"*": 0.9}, nms={"iou": 0.3, "cross_class_iou": 0.5})


def build_yolo_end_to_end(path):
    b, w, h, k = Builder(23), 160, 160, 30
    cells = b("Transpose", b("Concat", *yolo_cells(b, w, h, 3), axis=2), perm=[0, 2, 1])
    box, scores = b("Split", cells, b.ints(4, 3), axis=2, outs=2)
    top, at = b("TopK", b("ReduceMax", scores, axes=[2], keepdims=0), b.ints(k), axis=1, outs=2)
    rows = b("Squeeze", at, b.ints(0))
    xywh = b("Gather", box, rows, axis=1)
    label = b("Cast", b("Gather", b("ArgMax", scores, axis=2, keepdims=1), rows, axis=1), to=1)
    xy, wh = b("Split", xywh, b.ints(2, 2), axis=2, outs=2)
    half = b("Mul", wh, b.const(0.5))
    b("Concat", b("Sub", xy, half), b("Add", xy, half), b("Unsqueeze", top, b.ints(2)), label, axis=2, out="output0")
    b.save(path, [("images", "f", [1, 3, h, w])], [("output0", "f", [1, k, 6])])
    return manifest("yolo", {"name": "images", "width": w, "height": h, "channels": "rgb"}, {"output": "output0", "end_to_end": True},
                    ["text", "title", "table"], nms={"iou": 1})


def build_yolo_batch(path):
    """As Ultralytics exports it with dynamic=True, but for the size."""
    b, w, h = Builder(1), 128, 160
    b("Concat", *yolo_cells(b, w, h, 3, 0), axis=2, out="output0")
    b.save(path, [("images", "f", ["batch", 3, h, w])], [("output0", "f", ["batch", 7, "anchors"])])
    return manifest("yolo", {"name": "images", "width": w, "height": h, "channels": "rgb"}, {"output": "output0"}, ["text", "title", "table"],
                    score_floor=0.8, thresholds={"*": 0.9}, nms={"iou": 0.3, "cross_class_iou": 0.5})


def queries(b, image, w, h, classes, pages=1):
    """logits [pages, queries, classes] and boxes [pages, queries, 4], a query for each square of 16 pixels."""
    n = w * h // 256
    x = b("Transpose", b("Reshape", b.features(image, 16, classes + 4), b.ints(pages, classes + 4, n)), perm=[0, 2, 1])
    logits, box = b("Split", x, b.ints(classes, 4), axis=2, outs=2)
    gy, gx = np.mgrid[0 : h // 16, 0 : w // 16]
    grid = np.column_stack([gx.ravel() * 16 / w, gy.ravel() * 16 / h, np.zeros(n), np.zeros(n)])[None]
    return logits, b("Add", b("Mul", b("Sigmoid", box), b.const([16 / w, 16 / h, 0.4, 0.1])), b.const(grid)), n


def build_rtdetr_logits(path):
    b, w, h = Builder(3), 128, 128
    logits, boxes, n = queries(b, "pixel_values", w, h, 4)
    b("Identity", logits, out="logits"), b("Identity", boxes, out="pred_boxes")
    b.save(path, [("pixel_values", "f", ["batch", 3, h, w])], [("logits", "f", ["batch", n, 4]), ("pred_boxes", "f", ["batch", n, 4])])
    return manifest("rt-detr", {"name": "pixel_values", "width": w, "height": h, "channels": "rgb"}, {"logits": "logits", "boxes": "pred_boxes"},
                    ["text", "title", "table", "figure"], nms={"iou": 1})


def build_rtdetr_labels(path, pages=1):
    b, w, h = Builder(4), 128, 128
    logits, boxes, n = queries(b, "images", w, h, 4, pages)
    top, at = b("TopK", b("Reshape", b("Sigmoid", logits), b.ints(pages, n * 4)), b.ints(n), axis=1, outs=2)
    b("Identity", top, out="scores")
    b("Mod", at, b.ints(4), out="labels")
    if pages == 1:
        xywh = b("Gather", boxes, b("Squeeze", b("Div", at, b.ints(4)), b.ints(0)), axis=1)
    else:
        xywh = b("GatherElements", boxes, b("Tile", b("Unsqueeze", b("Div", at, b.ints(4)), b.ints(2)), b.ints(1, 1, 4)), axis=1)
    xy, wh = b("Split", xywh, b.ints(2, 2), axis=2, outs=2)
    half = b("Mul", wh, b.const(0.5))
    size = b("Unsqueeze", b("Cast", b("Concat", "orig_target_sizes", "orig_target_sizes", axis=1), to=1), b.ints(1))
    b("Mul", b("Concat", b("Sub", xy, half), b("Add", xy, half), axis=2), size, out="boxes")
    b.save(path, [("images", "f", ["N", 3, h, w]), ("orig_target_sizes", "i", ["N", 2])],
           [("labels", "i", ["N", n]), ("boxes", "f", ["N", n, 4]), ("scores", "f", ["N", n])])
    return manifest("rt-detr", {"name": "images", "width": w, "height": h, "channels": "rgb"},
                    {"labels": "labels", "boxes": "boxes", "scores": "scores", "sizes": "orig_target_sizes"}, ["text", "title", "table", "figure"], nms={"iou": 1})


def build_rcnn(path, masks=False):
    b, classes, s = Builder(6 if masks else 5), 2, 32
    image = b("Div", b("Unsqueeze", "image", b.ints(0)), b.const(255))
    x = b("Transpose", b.features(image, s, 4 + classes, ceil=1), perm=[0, 2, 3, 1])  # [1, h, w, 6]
    box, scores = b("Split", x, b.ints(4, classes), axis=3, outs=2)
    # The squares' corners: ones, summed up along each axis.
    ones = b("Add", b("Mul", b("Slice", box, b.ints(0), b.ints(1), b.ints(3)), b.const(0)), b.const(1))
    corner = [b("Mul", b("Sub", b("CumSum", ones, b.const(axis, np.int64)), b.const(1)), b.const(s)) for axis in (2, 1)]
    low = b("Concat", *corner, axis=3)
    first, size = b("Split", b("Mul", b("Sigmoid", box), b.const([s, s, 8 * s, 2 * s])), b.ints(2, 2), axis=3, outs=2)
    low = b("Add", low, first)
    corners = b("Reshape", b("Concat", low, b("Add", low, size), axis=3), b.ints(1, -1, 4))
    scores = b("Transpose", b("Reshape", b("Sigmoid", scores), b.ints(1, -1, classes)), perm=[0, 2, 1])
    kept = b("NonMaxSuppression", corners, scores, b.ints(50), b.const([0.5]), b.const([0.3]))  # [n, 3]: batch, class, box
    _, cls, at = b("Split", kept, b.ints(1, 1, 1), axis=1, outs=3)
    best = b("GatherND", b("Squeeze", scores, b.ints(0)), b("Concat", cls, at, axis=1))
    best, order = b("TopK", best, b("Shape", best), axis=0, outs=2)
    b("Identity", best, out="scores")
    b("Gather", b("Squeeze", cls, b.ints(1)), order, out="classes")
    b("Gather", b("Squeeze", corners, b.ints(0)), b("Gather", b("Squeeze", at, b.ints(1)), order), out="boxes")
    outputs = [("boxes", "f", ["n", 4]), ("classes", "i", ["n"]), ("scores", "f", ["n"])]
    if masks:
        b("Expand", b("Unsqueeze", best, b.ints(1, 2, 3)), b("Concat", b("Shape", best), b.ints(1, 28, 28), axis=0), out="masks")
        outputs.insert(2, ("masks", "f", ["n", 1, 28, 28]))
    b.save(path, [("image", "f", [3, "height", "width"])], outputs)
    return manifest("mask-rcnn" if masks else "faster-rcnn", {"name": "image", "shortest_edge": 320, "longest_edge": 533, "channels": "bgr" if masks else "rgb"},
                    {"boxes": "boxes", "classes": "classes", "scores": "scores", **({"masks": "masks"} if masks else {"whole_pixels": True})}, ["title", "table"], nms={"iou": 1})


def models():
    import onnxruntime
    to = here / "../testdata/families"
    for name, build in {"yolo": build_yolo, "yolo_end_to_end": build_yolo_end_to_end, "rtdetr_logits": build_rtdetr_logits,
                        "rtdetr_labels": build_rtdetr_labels, "yolo_batch": build_yolo_batch,
                        "rtdetr_batch": lambda p: build_rtdetr_labels(p, pages=0), "faster_rcnn": build_rcnn, "mask_rcnn": lambda p: build_rcnn(p, masks=True)}.items():
        path = to / name / "model.onnx"
        m = build(path)
        m.update(name=name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        (path.parent / "manifest.json").write_text(json.dumps(m, indent=2) + "\n")
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = {}
        for page in (here / "../report.png", here / "../testdata/walden.png"):
            rgb = np.asarray(Image.open(page).convert("RGB"))
            h, w = rgb.shape[:2]
            feed = {m["input"]["name"]: preprocess(rgb, m)}
            if "sizes" in m["options"]:
                feed[m["options"]["sizes"]] = np.array([[w, h]])  # the page's, as in its own code
            names = [o.name for o in session.get_outputs() if o.name != "masks"]
            outputs = session.run(names, feed)
            if "sizes" in m["options"]:
                m2 = json.loads(json.dumps(m))
                m2["input"].update(width=w, height=h)
                found[page.stem] = decode_rtdetr(outputs, w, h, m2)
            else:
                found[page.stem] = decoders[m["family"]](outputs, w, h, m)
        dump(path.parent / "boxes.json", found)
        print(name, path.stat().st_size, "bytes,", {k: len(v) for k, v in found.items()}, "boxes")


if __name__ == "__main__":
    command, *rest = sys.argv[1:] or ["help"]
    {"tensors": tensors, "models": models}.get(command, lambda *_: sys.exit(__doc__))(*rest)
