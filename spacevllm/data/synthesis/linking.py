"""Of the boxes found for one phrase, one a frame: the path with the best sum of scores and overlaps.

The paper keeps frames with up to three boxes and does not say which of them is the subject. We take the path that
maximises ``Σ score + λ Σ (GIoU(box, next box) - 1) / 2``, found exactly by dynamic programming (Viterbi), as tubes are
linked in action detection (Gkioxari & Malik 2015, there with IoU). GIoU tells near from far where boxes no longer
overlap. A frame may be left out: a lone false box costs two jumps and earns one score.
"""

from __future__ import annotations

import numpy as np

from spacevllm.data.synthesis.sample import Detections, Track


def link(detections: Detections, continuity: float = 1.0) -> Track:
    """The best path; it is empty only if there is no box at all. Of equal paths, the first found.

    Args:
        continuity: λ, the price of a jump to the far end of the picture, in units of the score.
    """
    counts = np.array([len(boxes) for boxes in detections.boxes], np.int64)  # (T,)
    rows = np.repeat(np.arange(len(counts)), counts)  # (M,) the frame of each box
    boxes = np.concatenate([np.zeros((0, 4)), *detections.boxes]).astype(np.float64)  # (M, 4)
    scores = np.concatenate([np.zeros(0), *detections.scores]).astype(np.float64)  # (M,)
    first = np.searchsorted(rows, rows)  # (M,) boxes of earlier frames come before this one
    path = _best_path(boxes, scores, first, continuity)
    return Track(rows[path], boxes[path], scores[path], counts[rows[path]])


def _best_path(boxes: np.ndarray, scores: np.ndarray, first: np.ndarray, continuity: float) -> list[int]:
    total, before = scores.copy(), np.full(len(scores), -1)
    for i in range(len(scores)):
        earlier = slice(0, first[i])
        gains = total[earlier] + continuity * (giou(boxes[earlier], boxes[i]) - 1) / 2
        if len(gains) and gains.max() > 0:
            before[i] = int(gains.argmax())
            total[i] += gains[before[i]]
    path = [int(total.argmax())] if len(scores) else []
    while path and before[path[-1]] >= 0:
        path.append(int(before[path[-1]]))
    return path[::-1]


def giou(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(N,) generalised IoU in [-1, 1] of each of (N, 4) boxes with one (4,) box, xyxy."""
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    overlap = (high - low).clip(min=0).prod(-1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(-1) + (box[2:] - box[:2]).prod() - overlap
    hull = (np.maximum(boxes[:, 2:], box[2:]) - np.minimum(boxes[:, :2], box[:2])).prod(-1)
    return overlap / union.clip(min=1e-9) - (hull - union) / hull.clip(min=1e-9)
