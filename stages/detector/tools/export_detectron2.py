#!/usr/bin/env python3
"""A Detectron2 checkpoint (Faster R-CNN or Mask R-CNN) as a model that Leafcutter serves: a folder with model.onnx and manifest.json.

  python3 export_detectron2.py --weights model_final.pth --config COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml \\
      --classes title --page page.png --name headings OUT_DIR

The graph is that of Detectron2's own tools/deploy/export_model.py (tracing, without the final resize), with what it
lacks for serving: opset 16, because older ones have no aligned RoiAlign and give other boxes; height, width and the
number of boxes left open; outputs with names. It holds standard operators only, normalises and pads by itself, and
takes a page as [3, h, w] levels 0 to 255, scaled as ResizeShortestEdge does.

The model is run on the page by torch and by ONNX Runtime; where they disagree, nothing is written. docs/models.md says
what to install.
"""
import argparse, hashlib, inspect, json, pathlib, sys

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("out", type=pathlib.Path, help="folder of models; the model gets a folder in it")
ap.add_argument("--weights", required=True, help="the checkpoint, .pth or .pkl")
ap.add_argument("--config", required=True, help="the YAML that it was trained with, or the name of one in the model zoo")
ap.add_argument("--classes", required=True, help="comma-separated, or a file with a name a line, in the order of training")
ap.add_argument("--page", required=True, help="a page image on which something is found")
ap.add_argument("--name", required=True, help="the model's name: 1 to 64 of a-z, 0-9, _ and -")
ap.add_argument("--version", default="1")
ap.add_argument("--channels", choices=["rgb", "bgr"], help="order in which the model was fed in training; else the config's INPUT.FORMAT")
ap.add_argument("--floor", type=float, default=0.3, help="score under which the graph drops boxes")
ap.add_argument("--threshold", type=float, default=0.5, help="score from which boxes are cropped")
ap.add_argument("--whole-pixels", action="store_true", help="round boxes to whole pixels, as Pillow's crop does")
ap.add_argument("--masks", action="store_true", help="keep the mask head: Leafcutter does not use masks, and it costs time")
ap.add_argument("opts", nargs="*", metavar="KEY=VALUE", help="further settings of the config")
a = ap.parse_args()

import numpy as np, onnx, onnxruntime, torch
from PIL import Image
from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.export import TracingAdapter
from detectron2.modeling import build_model
import torchvision.ops.boxes as boxes_of_torchvision


def nms_trick(boxes, scores, idxs, iou):
    """torchvision's own way to suppress by class, without the scripted `if`, which would become a subgraph of the ONNX
    file. A zero is appended so that the maximum of no boxes is defined; boxes are clipped at 0, so it changes nothing."""
    most = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).max()
    return boxes_of_torchvision.nms(boxes + (idxs.to(boxes) * (most + 1))[:, None], scores, iou)


def configure(classes):
    cfg = get_cfg()
    path = pathlib.Path(a.config)
    cfg.merge_from_file(str(path) if path.exists() else model_zoo.get_config_file(a.config))
    for kv in a.opts:
        cfg.merge_from_list(kv.split("=", 1))
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", a.weights
    cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = len(classes), a.floor
    if not a.masks:
        cfg.MODEL.MASK_ON = False
    return cfg


def main():
    file = pathlib.Path(a.classes)
    classes = file.read_text().split("\n") if file.is_file() else a.classes.split(",")
    classes = [c.strip() for c in classes if c.strip()]
    cfg = configure(classes)
    if cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN":
        sys.exit(f"{cfg.MODEL.META_ARCHITECTURE} is not exported by this script, only GeneralizedRCNN: Faster and Mask R-CNN")
    channels = a.channels or cfg.INPUT.FORMAT.lower()
    model = build_model(cfg)
    loaded = DetectionCheckpointer(model).load(a.weights)
    model.eval()

    rgb = np.asarray(Image.open(a.page).convert("RGB"))
    fed = rgb if channels == "rgb" else rgb[:, :, ::-1]
    shortest, longest = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    resized = ResizeShortestEdge([shortest, shortest], longest).get_transform(fed).apply_image(np.ascontiguousarray(fed))
    image = torch.as_tensor(resized.astype("float32").transpose(2, 0, 1).copy())

    boxes_of_torchvision._batched_nms_coordinate_trick = nms_trick
    adapter = TracingAdapter(model, [{"image": image}], lambda m, x: [{"instances": m.inference(x, do_postprocess=False)[0]}])
    with torch.no_grad():
        want = adapter(image)
    # The adapter gives an instance's fields in the order of their names, then the size.
    names = ["boxes", "classes", "masks", "scores", "image_size"] if cfg.MODEL.MASK_ON else ["boxes", "classes", "scores", "image_size"]
    if len(want) != len(names):
        sys.exit(f"the model has {len(want)} outputs, expected {names}")
    if want[0].shape[0] == 0:
        sys.exit(f"nothing is found on {a.page} from score {a.floor} on: give a page that the model knows, or --channels as in training")
    print(f"{want[0].shape[0]} boxes on {a.page}, scaled to {resized.shape[1]} x {resized.shape[0]}")

    to = a.out / a.name
    to.mkdir(parents=True, exist_ok=True)
    # Under another name until it has been compared: what is served must be sound.
    onnx_file = to / "model.onnx.new"
    legacy = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    with torch.no_grad():
        torch.onnx.export(adapter, (image,), str(onnx_file), opset_version=16, input_names=["image"], output_names=names,
                          dynamic_axes={"image": {1: "height", 2: "width"}, **{n: {0: "n"} for n in names if n != "image_size"}}, **legacy)
    onnx.checker.check_model(str(onnx_file))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(onnx_file), options, providers=["CPUExecutionProvider"])
    got = dict(zip(names, session.run(names, {"image": image.numpy()})))
    for name, w in zip(names[:-1], want):
        w = w.numpy()
        worst = float(np.abs(got[name].astype(float) - w).max()) if got[name].shape == w.shape else float("inf")
        print(f"{name} {list(w.shape)}: largest difference between torch and ONNX Runtime {worst:.2g}")
        if not worst < {"boxes": 0.05, "scores": 1e-3, "masks": 1e-2}.get(name, 0.5):
            onnx_file.unlink()
            sys.exit("they disagree: nothing written")
    # Another size, so that nothing of the page's has stuck.
    session.run(names, {"image": np.full((3, shortest, min(longest, shortest + 64)), 255, np.float32)})

    weights = to / "model.onnx"
    onnx_file.replace(weights)
    manifest = {
        "name": a.name, "version": a.version, "file": weights.name, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "source": f"Detectron2, {a.config}", "family": "mask-rcnn" if cfg.MODEL.MASK_ON else "faster-rcnn",
        "input": {"name": "image", "shortest_edge": shortest, "longest_edge": longest, "channels": channels},
        "classes": classes, "score_floor": max(a.floor, 0.01), "thresholds": {"*": a.threshold},
        "nms": {"iou": 1, "cross_class_iou": 1, "candidates": 1000, "max_boxes": cfg.TEST.DETECTIONS_PER_IMAGE},
        "options": {"boxes": "boxes", "classes": "classes", "scores": "scores"}, "provider": "cpu",
    }
    if cfg.MODEL.MASK_ON:
        manifest["options"]["masks"] = "masks"
    if a.whole_pixels:
        manifest["options"]["whole_pixels"] = True
    (to / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    print("written:", weights, f"{weights.stat().st_size / 1e6:.0f} MB, and", to / "manifest.json")


main()
