#!/usr/bin/env python3
"""What the tutorial's own code cuts out of real pages: the reference that tools/crops compares the detector with.

  python3 tutorial_crops.py --weights model_final.pth --pages 24 OUT_DIR a.pdf b.pdf ...

It is the tutorial's worker without its bucket: MuPDF at zoom 1.5, Detectron2's DefaultPredictor on the RGB array, boxes
above 0.9, Pillow's crop. For each page on which something is found it writes the page as a PNG and, in crops.json, the
crops as Pillow made them: rectangle, size and sha256 of the pixels, and the seconds that predictor and crops took, by
the clock and of the processor. Crops of no size, of which Pillow's writer dies, are left out. The last line on stdout
is a JSON object: peak_bytes, the resident memory at most. docs/models.md says what to install.
"""
import argparse, hashlib, io, json, pathlib, resource, sys, time

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("out", type=pathlib.Path)
ap.add_argument("pdf", nargs="+", type=pathlib.Path)
ap.add_argument("--weights", required=True)
ap.add_argument("--pages", type=int, default=24, help="stop when this many pages have crops")
ap.add_argument("--from", dest="start", type=int, default=1, help="first page of each PDF")
ap.add_argument("--threads", type=int, default=2)
a = ap.parse_args()

import fitz, numpy as np, torch
from PIL import Image
from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.engine import DefaultPredictor

torch.set_num_threads(a.threads)
cfg = get_cfg()
cfg.merge_from_file(model_zoo.get_config_file("COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"))
cfg.MODEL.DEVICE = "cpu"
cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST, cfg.MODEL.ROI_HEADS.NUM_CLASSES = 0.3, 1
cfg.MODEL.WEIGHTS = a.weights
predictor = DefaultPredictor(cfg)

a.out.mkdir(parents=True, exist_ok=True)
found, seconds, tried = [], [], 0
documents = [fitz.open(p) for p in a.pdf]
for number in range(a.start - 1, max(d.page_count for d in documents)):
    for path, doc in zip(a.pdf, documents):  # one page of each, so that sizes mix
        if number >= doc.page_count or len(found) >= a.pages:
            continue
        pix = doc.load_page(number).get_pixmap(matrix=fitz.Matrix(1.5, 1.5))
        page = Image.frombytes("RGBA" if pix.alpha else "RGB", [pix.width, pix.height], pix.samples)
        t, cpu = time.perf_counter(), time.process_time()
        instances = predictor(np.array(page))["instances"]
        cut = []
        for box in instances[instances.scores > 0.9].pred_boxes:
            corners = [float(v) for v in box]
            crop = page.crop(corners)
            if 0 not in crop.size:
                crop.save(io.BytesIO(), format="PNG")
                cut.append((corners, crop))
        t, cpu = time.perf_counter() - t, time.process_time() - cpu
        seconds.append(t)
        tried += 1
        crops = [{"box": [round(v) for v in corners], "size": crop.size, "sha256": hashlib.sha256(crop.tobytes()).hexdigest()}
                 for corners, crop in cut]
        if crops:
            name = f"{path.stem}-{number + 1:03}.png"
            page.save(a.out / name)
            found.append({"page": name, "size": page.size, "crops": crops, "seconds": t, "cpu_seconds": cpu})
            (a.out / "crops.json").write_text(json.dumps(found, indent=1) + "\n")
            print(name, page.size, len(crops), "crops", flush=True)
print(f"{sum(len(f['crops']) for f in found)} crops on {len(found)} of {tried} pages, {min(seconds):.2f} s a page at best")
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"peak_bytes": peak}))
