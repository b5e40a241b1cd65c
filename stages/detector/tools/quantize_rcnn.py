#!/usr/bin/env python3
"""A Faster or Mask R-CNN that export_detectron2.py wrote, with integer arithmetic where most of its time goes: a model
of its own beside the first, with a manifest that is the first's but for name and weights.

  python3 quantize_rcnn.py --calibrate PAGES --check OTHER_PAGES --name headings-int8 models/headings

PAGES and OTHER_PAGES are folders of page images, PNG, as the page-splitter renders them: at the dpi of the runs that the
model is for. A dozen pages of several documents calibrate well; those of the check must be others.

Static quantization in ONNX Runtime's QDQ form: levels of 8 bits for what flows between the layers of backbone, feature
pyramid and the proposals' shared convolution, with one scale a tensor taken from the least and the greatest value on
the calibration pages; weights of 8 bits with a scale for each output channel. What takes the page (the stem), what makes
scores and boxes, and the head that classifies proposals stay float32: they cost little and everything hangs on them.

The check runs both models and counts boxes that have a partner: the best box of the same class not yet taken whose
overlap (intersection over union) is 0.9 or more, both of the manifest's threshold. Where fewer than --agree of all do,
nothing is written. docs/models.md says what to install.
"""
import argparse, hashlib, json, pathlib, sys, tempfile

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("model", type=pathlib.Path, help="the model's folder")
ap.add_argument("--name", required=True, help="the new model's name; its folder is made beside the other")
ap.add_argument("--calibrate", type=pathlib.Path, required=True, help="folder of page images that the ranges are taken from")
ap.add_argument("--check", type=pathlib.Path, required=True, help="folder of other page images, for the comparison")
ap.add_argument("--pages", type=int, default=16, help="pages to calibrate on, and to check on, at most")
ap.add_argument("--agree", type=float, default=0.8, help="least share of boxes that must have a partner")
ap.add_argument("--threads", type=int, default=0, help="of ONNX Runtime; 0: one a core")
a = ap.parse_args()

import numpy as np, onnx, onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QDQQuantizer, QuantType, create_calibrator
from PIL import Image

manifest = json.loads((a.model / "manifest.json").read_text())
entry, options = manifest["input"], manifest["options"]
if manifest["family"] not in ("faster-rcnn", "mask-rcnn"):
    sys.exit(f"{a.model} is of the family {manifest['family']}, not faster-rcnn or mask-rcnn")


def pages(folder):
    """Page images, evenly over the folder's."""
    all = sorted(folder.glob("*.png"))
    if not all:
        sys.exit(f"{folder} has no PNG")
    step = max(len(all) / a.pages, 1)
    return [all[int(i * step)] for i in range(min(a.pages, len(all)))]


def tensor(path):
    """A page as the detector feeds it: scaled as Detectron2's ResizeShortestEdge does, levels 0 to 255, [3, h, w]."""
    page = Image.open(path).convert("RGB")
    w, h = page.size
    scale = entry["shortest_edge"] / min(w, h)
    to = [w * scale, h * scale]
    if max(to) > entry["longest_edge"]:
        to = [v * entry["longest_edge"] / max(to) for v in to]
    levels = np.asarray(page.resize([int(v + 0.5) for v in to], Image.BILINEAR), np.float32)
    if entry["channels"] == "bgr":
        levels = levels[:, :, ::-1]
    return np.ascontiguousarray(levels.transpose(2, 0, 1))


class One(CalibrationDataReader):
    """One page: what is collected is made use of after each."""

    def __init__(self, path):
        self.left = [{entry["name"]: tensor(path)}]

    def get_next(self):
        return self.left.pop() if self.left else None


KINDS = ["Conv", "Relu", "Add", "MaxPool", "Resize"]


def chosen(graph):
    """The nodes that are to compute in integers."""
    nodes = [n for n in graph.node if n.op_type in KINDS and (
        n.name.startswith("/backbone/") and "/stem/" not in n.name or n.name.startswith("/proposal_generator/rpn_head/conv"))]
    if sum("/backbone/" in n.name for n in nodes) < 50 or not any("/rpn_head/" in n.name for n in nodes):
        sys.exit("the graph's nodes are not named as export_detectron2.py names them")
    return nodes


def ranges(source, nodes, files):
    """Of every tensor of these nodes. Only what they need of the graph is run: what comes after cannot take a page on
    which nothing is proposed, and most of the time goes there."""
    within = {i for n in nodes for i in n.input}
    ends = [o for n in nodes for o in n.output if o not in within]
    with tempfile.TemporaryDirectory() as work:
        upper = str(pathlib.Path(work, "upper.onnx"))
        onnx.utils.extract_model(str(source), upper, [entry["name"]], ends)
        c = create_calibrator(upper, KINDS, str(pathlib.Path(work, "collects.onnx")), CalibrationMethod.MinMax)
        for path in files:
            c.collect_data(One(path))
            print("calibrated on", path.name, flush=True)
        return c.compute_data()


def session(file):
    o = onnxruntime.SessionOptions()
    o.log_severity_level, o.intra_op_num_threads = 3, a.threads
    return onnxruntime.InferenceSession(str(file), o, providers=["CPUExecutionProvider"])


def boxes(s, image):
    """Boxes and classes, by falling score: those from the manifest's thresholds on, and all."""
    b, c, p = s.run([options["boxes"], options["classes"], options["scores"]], {entry["name"]: image})
    least = np.array([manifest["thresholds"].get(k, manifest["thresholds"].get("*", 0)) for k in manifest["classes"]])
    keep = p >= least[c]
    return (b[keep], c[keep]), (b, c)


def overlap(box, others):
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=1)
    area = lambda v: (v[..., 2] - v[..., 0]) * (v[..., 3] - v[..., 1])
    return both / (area(box) + area(others) - both)


def partners(want, got):
    """How many boxes of want have a partner in got. The best scores choose first."""
    free = np.ones(len(got[0]), bool)
    n = 0
    for box, kind in zip(want[0], want[1]):
        fit = np.where(free & (got[1] == kind), overlap(box, got[0]), 0) if len(free) else np.zeros(1)
        if fit.max() >= 0.9:
            free[fit.argmax()] = False
            n += 1
    return n


def main():
    source = a.model / manifest["file"]
    calibrate, check = pages(a.calibrate), pages(a.check)
    if shared := {hashlib.sha256(p.read_bytes()).digest() for p in calibrate} & {hashlib.sha256(p.read_bytes()).digest() for p in check}:
        sys.exit(f"{len(shared)} pages are in both folders: the check would say nothing")
    model = onnx.shape_inference.infer_shapes(onnx.load(str(source)))
    nodes = chosen(model.graph)
    to = a.model.parent / a.name
    to.mkdir(exist_ok=True)
    fresh = to / "model.onnx.new"  # under another name until it has been compared: what is served must be sound
    q = QDQQuantizer(model, per_channel=True, reduce_range=False, weight_qType=QuantType.QInt8, activation_qType=QuantType.QUInt8,
                     tensors_range=ranges(source, nodes, calibrate), nodes_to_quantize=[n.name for n in nodes],
                     nodes_to_exclude=[], op_types_to_quantize=KINDS, extra_options={"WeightSymmetric": True})
    q.quantize_model()
    q.model.save_model_to_file(str(fresh), False)
    first, second = session(source), session(fresh)
    matched = whole = rest = anyhow = 0
    for path in check:
        image = tensor(path)
        (want, _), (got, all) = boxes(first, image), boxes(second, image)
        n = partners(want, got)
        matched, whole, rest, anyhow = matched + n, whole + len(want[0]), rest + len(got[0]), anyhow + partners(want, all)
        print(f"{path.name}: {len(want[0])} boxes in float32, {len(got[0])} in int8, {n} agree", flush=True)
    share = 2 * matched / max(whole + rest, 1)
    print(f"{matched} boxes agree of {whole} in float32 and {rest} in int8 on {len(check)} pages: {100 * share:.1f} %; "
          f"{anyhow} of the {whole} are found by int8 at whatever score")
    if whole == 0 or share < a.agree:
        fresh.unlink()
        sys.exit("that is too few: nothing written")
    weights = to / "model.onnx"
    fresh.replace(weights)
    new = {**manifest, "name": a.name, "file": weights.name, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    new["source"] = f"{manifest.get('source', manifest['name'])}, quantized from {manifest['sha256'][:16]}"
    (to / "manifest.json").write_text(json.dumps(new, indent=2) + "\n")
    print(f"written: {weights}, {weights.stat().st_size / 1e6:.0f} MB, and {to / 'manifest.json'}")


main()
