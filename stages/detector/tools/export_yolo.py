#!/usr/bin/env python3
"""A YOLO checkpoint (.pt of Ultralytics or of DocLayout-YOLO) as a model that Leafcutter serves: a folder with model.onnx and manifest.json.

  python3 export_yolo.py --weights best.pt --size 1024 --page page.png --name layout OUT_DIR

The graph is the one that the package's own export writes, float32 and of one size, which fits each page whole: give the
size of training. Names of classes come from the checkpoint. The model is run on the page by torch and by ONNX Runtime;
where they disagree, nothing is written. With --batch the graph takes any number of pages, and two pages in one run are
compared with each alone. docs/models.md says what to install.
"""
import argparse, hashlib, json, os, pathlib, shutil, sys, tempfile, zipfile


def pages_at_once(text):
    """As many as a manifest may ask for."""
    n = int(text)
    if not 2 <= n <= 64:
        raise argparse.ArgumentTypeError(f"{n} is outside 2 to 64")
    return n


ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("out", type=pathlib.Path, help="folder of models; the model gets a folder in it")
ap.add_argument("--weights", required=True, type=pathlib.Path)
ap.add_argument("--size", type=int, nargs="+", required=True, help="side of the input in pixels, or height and width; multiples of 32")
ap.add_argument("--page", required=True, help="a page image to compare torch and ONNX Runtime on")
ap.add_argument("--name", required=True, help="the model's name: 1 to 64 of a-z, 0-9, _ and -")
ap.add_argument("--version", default="1")
ap.add_argument("--floor", type=float, default=0.1, help="score from which boxes are kept")
ap.add_argument("--threshold", type=float, default=0.25, help="score from which they are cropped")
ap.add_argument("--iou", type=float, default=0.7, help="overlap above which the lesser of two boxes of a class is dropped, for models without it inside")
ap.add_argument("--batch", type=pages_at_once, default=1, help="pages that one inference may take, 2 to 64: leaves the first axis open, and asks for dynamic_batching")
a = ap.parse_args()
# The package would install what it thinks is missing, and look for updates.
os.environ["YOLO_AUTOINSTALL"], os.environ["YOLO_OFFLINE"] = "false", "true"

import cv2, numpy as np, onnxruntime, torch


def load():
    """The checkpoint by the package that wrote it: where both are installed, either loads it and only one can export it."""
    package = "ultralytics"
    if zipfile.is_zipfile(a.weights):
        with zipfile.ZipFile(a.weights) as z:
            if any(b"doclayout_yolo" in z.read(n) for n in z.namelist() if n.endswith("data.pkl")):
                package = "doclayout_yolo"
    try:
        module = __import__(package)
    except ImportError as e:
        sys.exit(f"{a.weights} was written by the package {package}: {e}")
    return package, (module.YOLOv10 if package == "doclayout_yolo" else module.YOLO)(str(a.weights))


def letterbox(bgr, w, h):
    gain = min(h / bgr.shape[0], w / bgr.shape[1])
    nw, nh = max(round(bgr.shape[1] * gain), 1), max(round(bgr.shape[0] * gain), 1)
    left, top = round((w - nw) / 2 - 0.1), round((h - nh) / 2 - 0.1)
    out = np.full((h, w, 3), 114, np.uint8)
    out[top : top + nh, left : left + nw] = cv2.resize(bgr, (nw, nh), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(out[:, :, ::-1].transpose(2, 0, 1)[None]).astype(np.float32) / 255


def main():
    h, w = a.size if len(a.size) == 2 else a.size * 2
    if h % 32 or w % 32:
        sys.exit(f"--size: {h} x {w} are no multiples of 32")
    package, model = load()
    classes = [model.names[i] for i in range(len(model.names))]
    to = a.out / a.name
    to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as tmp:
        # The export writes beside the checkpoint, and changes the model that it is given.
        copy = shutil.copy(a.weights, pathlib.Path(tmp, "model.pt"))
        exported = pathlib.Path(type(model)(copy).export(format="onnx", imgsz=[h, w], opset=16, simplify=False, dynamic=a.batch > 1, half=False))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(exported), options, providers=["CPUExecutionProvider"])
        (image,), outputs = session.get_inputs(), session.get_outputs()
        x = letterbox(cv2.imread(a.page), w, h)
        got = session.run([outputs[0].name], {image.name: x})[0]
        if got.ndim != 3 or got.shape[2] != 6 and got.shape[1] != 4 + len(classes):
            sys.exit(f"the output is {list(got.shape)}; a model that finds boxes has [1, {4 + len(classes)}, n] or [1, n, 6]")
        end_to_end = got.shape[2] == 6
        want = compare(model.model, x, got.shape[1] if end_to_end else 0)
        # Rows of an end-to-end model are told apart by scores, and where these tie in any order: the scores must agree.
        pick = (lambda o: np.sort(o[..., 4])) if end_to_end else (lambda o: o)
        worst = float(np.abs(pick(got) - pick(want)).max()) if got.shape == want.shape else float("inf")
        print(f"{outputs[0].name} {list(got.shape)}: largest difference between torch and ONNX Runtime {worst:.2g}")
        if not worst < (1e-3 if end_to_end else 0.05):
            sys.exit("they disagree: nothing written")
        if a.batch > 1:
            # Each of two pages, of which the second is the first upside down: a graph may do the first, or the same for both.
            two = [x, np.ascontiguousarray(x[:, :, ::-1])]
            alone = np.concatenate([session.run([outputs[0].name], {image.name: one})[0] for one in two])
            pair = session.run([outputs[0].name], {image.name: np.concatenate(two)})[0]
            if pair.shape != alone.shape or not np.abs(pick(pair) - pick(alone)).max() < 1e-3:
                sys.exit("a page beside another is not what it is alone, nothing written: this model takes no --batch")
        weights = to / "model.onnx"
        shutil.copy(exported, weights)
    option = {"output": outputs[0].name, **({"end_to_end": True} if end_to_end else {})}
    iou = 1 if end_to_end else a.iou
    manifest = {
        "name": a.name, "version": a.version, "file": weights.name, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "source": f"{a.weights.name}, exported by {package}", "family": "yolo",
        "input": {"name": image.name, "width": w, "height": h, "channels": "rgb"},
        "classes": classes, "score_floor": a.floor, "thresholds": {"*": max(a.threshold, a.floor)},
        "nms": {"iou": iou, "cross_class_iou": 1, "candidates": 1000, "max_boxes": 300}, "options": option, "provider": "cpu",
    }
    if a.batch > 1:
        manifest["dynamic_batching"] = {"max_batch_size": a.batch, "max_queue_delay_ms": 20}
    (to / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    print(f"written: {weights}, {weights.stat().st_size / 1e6:.0f} MB, {len(classes)} classes, and {to / 'manifest.json'}")


def compare(module, x, rows):
    """What torch makes of the same input; rows is how many an end-to-end model puts out, else 0."""
    module = module.float().cpu().eval()
    for m in module.modules():
        if hasattr(m, "export"):
            m.export, m.format = rows > 0, "onnx"  # the head's last step, choosing boxes, is part of the export alone
        if hasattr(m, "max_det") and rows:
            m.max_det = rows
    with torch.no_grad():
        y = module(torch.from_numpy(x))
    if isinstance(y, dict):
        y = y["one2one"]
    while isinstance(y, (list, tuple)):
        y = y[0]
    return y.numpy()


main()
