"""The three protocols in their slowest form: the words of TubeDETR's and STCAT's scorers as loops over frames.

Shares no code with ``spacevllm.evaluation``. ``truth`` and ``predicted`` are plain dicts; boxes are by frame.
"""

from __future__ import annotations

import math


def scores(truth, predicted, protocol):
    """(tiou, viou, gt_viou). truth: family, fps, num_frames, width, height, begin, end, segment (half-open), boxes."""
    b, e, known, counts = {"dense": dense, "tubedetr": tubedetr, "stcat": stcat}[protocol](truth)
    p_b, p_e = predicted["begin"], predicted["end"]
    own = {f: clean(box, truth) for f, box in predicted["boxes"].items() if all(map(math.isfinite, box))}

    shared = len([f for f in range(p_b, p_e) if b <= f < e])
    either = len({*range(b, e), *range(p_b, p_e)})
    tiou = shared / either if either else 0.0

    overlap, total = 0.0, 0
    for f in range(min(b, p_b), max(e, p_e)):
        if not counts(f):
            continue
        total += 1
        if b <= f < e and p_b <= f < p_e and f in known:
            overlap += iou(known[f], nearest(own, f))
    viou = overlap / total if total else 0.0

    last = e + 1 if protocol == "stcat" else e
    asked = [f for f in range(b, last) if counts(f) and f in known]
    gt_viou = sum(iou(known[f], nearest(own, f)) for f in asked) / len(asked) if asked else 0.0
    return tiou, viou, gt_viou


def dense(truth):
    """Every frame, half-open as annotated; a frame of G whose box nobody knows is not in F."""
    b, e = truth["begin"], truth["end"]
    known = filled(truth, b, e)
    return b, e, known, lambda f: f in known or not b <= f < e


def tubedetr(truth):
    b, e = truth["begin"], truth["end"]
    known = filled(truth, b, e)
    if truth["family"] == "hcstvg":  # st_frame = begin + 1 is used as if it were 0-based, boxes with it
        b, e = b + 1, e + 1
        known = {f + 1: box for f, box in known.items()}
    start, stop = truth["segment"][0], truth["segment"][1] - 1  # the segment's last frame, exclusive
    r = 5 / (truth["num_frames"] / 20 if truth["family"] == "hcstvg" else truth["fps"])
    kept = [start]
    for f in range(start, stop):
        if math.floor(kept[-1] * r) < math.floor(f * r):
            kept.append(f)
    n = len(kept)
    if n > 200:
        kept = [kept[(j * n) // 200] for j in range(200)]
    frames = set(kept)
    return b, e, known, lambda f: f in frames and (f in known or not b <= f < e)


def stcat(truth):
    b, e = truth["begin"], truth["end"]
    e = e - 1 if truth["family"] == "hcstvg" else min(e, truth["segment"][1] - 1)
    known = filled(truth, b, e + 1)
    if known:  # a frame without a box repeats the nearest, as STCAT's reader does for the last one
        known = {f: nearest(known, f) for f in range(b, e + 1)}
    return b, e, known, lambda f: True


def filled(truth, b, e):
    """True boxes on [b, e), gaps between two of them filled by a straight line."""
    there = {f: clean(box, truth) for f, box in truth["boxes"].items() if b <= f < e}
    result = {}
    for f in range(min(there, default=0), max(there, default=-1) + 1):
        left = max(g for g in there if g <= f)
        right = min(g for g in there if g >= f)
        share = (f - left) / (right - left) if right > left else 0.0
        result[f] = [x + share * (y - x) for x, y in zip(there[left], there[right], strict=True)]
    return result


def nearest(boxes, f):
    """The box of the nearest frame that has one, the earlier of two; the empty box where there is none."""
    return boxes[min(sorted(boxes), key=lambda g: abs(g - f))] if boxes else [0.0] * 4


def clean(box, truth):
    (x1, x2), (y1, y2) = sorted((box[0], box[2])), sorted((box[1], box[3]))
    width, height = truth["width"], truth["height"]
    return [min(max(x1, 0), width), min(max(y1, 0), height), min(max(x2, 0), width), min(max(y2, 0), height)]


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union > 0 else 0.0
