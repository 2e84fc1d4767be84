"""The scene's truth against what is really drawn, encoded and decoded."""

from __future__ import annotations

from dataclasses import replace

import av
import numpy as np
import pytest

from spacevllm.data.moving_shapes import (
    MovingShapesConfig,
    make_scene,
    make_still,
    render_frame,
    render_frames,
    write_video,
)
from spacevllm.data.moving_shapes.world import ACTIONS, COLOURS, DIRECTIONS, Scene

CONFIG = MovingShapesConfig(seed=11)
SCENES = [make_scene(CONFIG, "train", index) for index in range(30)]
BLACK = ((0, 0, 0), (0, 0, 0))


def test_boxes_are_the_extent_of_the_drawn_pixels():
    """Each thing alone on black, every third frame: its box fits its pixels to a pixel and the quarter of placement."""
    compared, clipped = 0, 0
    for scene in SCENES[:12]:
        for n, thing in enumerate(scene.things):
            alone = replace(scene, things=(thing,), background=BLACK)
            for frame in range(0, scene.num_frames, 3):
                drawn = _extent(np.asarray(render_frame(alone, frame)))
                box = scene.boxes[n, frame]
                if drawn is None:
                    assert np.isnan(box).all()
                    continue
                if np.isnan(box).all():
                    assert (drawn[2:] - drawn[:2]).min() <= 1
                else:
                    assert np.abs(drawn - box).max() <= 1.25, (scene.index, n, frame, drawn, box)
                    compared += 1
                    clipped += bool((box[:2] == 0).any() or box[2] == 160 or box[3] == 120)
    assert compared > 500
    assert clipped > 30


def test_boxes_stay_on_the_canvas():
    for scene in SCENES:
        boxes = scene.boxes[np.isfinite(scene.boxes).all(-1)]
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= (CONFIG.width, CONFIG.height)).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()


@pytest.mark.parametrize("action", ACTIONS)
def test_boxes_do_what_the_phase_says(action: str):
    """Second by second, by boxes alone; a clipped box says little about movement, so only whole ones count."""
    checked = 0
    for scene in SCENES:
        for n, thing in enumerate(scene.things):
            for phase in thing.phases:
                if phase.action == action:
                    _check_phase(scene, n, phase)
                    checked += 1
    assert checked >= 10


def _check_phase(scene: Scene, n: int, phase) -> None:
    frames = np.arange(phase.begin_s, phase.end_s + 1) * CONFIG.fps
    boxes = scene.boxes[n, frames]  # (seconds + 1, 4)
    centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    match phase.action:
        case "enters":
            assert np.isnan(scene.boxes[n, : frames[0]]).all()
            assert sizes[0].min() < 11 < sizes[-1].min()
        case "leaves":
            assert np.isnan(scene.boxes[n, frames[-1] :]).all()
            assert np.isfinite(scene.boxes[n, frames[0] : frames[-1]]).all()
        case "grows" | "shrinks":
            ratio = sizes[-1] / sizes[0]
            assert np.allclose(ratio if phase.action == "grows" else 1 / ratio, CONFIG.growth, rtol=0.06)
            assert np.allclose(centres, centres[0])
        case "stands still":
            assert np.allclose(boxes, boxes[0])
        case _:
            step = np.diff(centres, axis=0)
            direction = np.array(DIRECTIONS[phase.action])
            assert (step @ direction >= CONFIG.min_speed - 1e-6).all()
            assert np.allclose(step, step[0])
            assert np.allclose(sizes, sizes[0])


def test_a_life_has_no_gaps():
    for scene in SCENES:
        for thing in scene.things:
            present = [phase for phase in thing.phases if phase.action != "enters" or phase.begin_s > 0]
            assert present
            for before, after in zip(thing.phases, thing.phases[1:], strict=False):
                assert before.end_s == after.begin_s
            for phase in thing.phases:
                assert phase.end_s - phase.begin_s >= (1 if phase.action == "stands still" else 2)
            assert thing.phases[-1].end_s == CONFIG.seconds or thing.phases[-1].action == "leaves"


def test_things_can_be_told_apart():
    for scene in SCENES:
        looks = [(t.shape, t.colour, t.texture, t.size) for t in scene.things]
        assert len(set(looks)) == len(looks)
        changing = {look[:3] for look in looks if look[3] is None}
        assert all(look[:3] not in changing for look in looks if look[3] is not None)


def test_what_is_in_front_hides_what_is_behind():
    """The visible share against counted pixels of the mask that the front leaves free."""
    checked = 0
    for scene in SCENES[:15]:
        for frame in (0, 28, 56):
            for n in range(len(scene.things)):
                if (
                    np.isnan(scene.boxes[n, frame, 0])
                    or (scene.boxes[n, frame, 2:] - scene.boxes[n, frame, :2]).min() < 15
                ):
                    continue
                assert scene.visible[n, frame] == pytest.approx(_free_share(scene, n, frame), abs=0.12)
                checked += scene.visible[n, frame] < 1
    assert checked >= 3


def test_the_same_seed_is_the_same_scene_and_another_is_not():
    again = make_scene(CONFIG, "train", 3)
    assert np.array_equal(render_frames(again), render_frames(SCENES[3]))
    for other in (make_scene(CONFIG, "test", 3), make_scene(CONFIG.model_copy(update={"seed": 12}), "train", 3)):
        assert not np.array_equal(render_frame(other, 0), render_frame(again, 0))


def test_video_decodes_to_what_was_drawn(tmp_path):
    scene = SCENES[0]
    write_video(scene, tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == CONFIG.fps
    assert [time for time, _ in frames] == [frame / 8 for frame in range(57)]
    decoded, drawn = np.stack([pixels for _, pixels in frames]).astype(int), render_frames(scene).astype(int)
    assert np.abs(decoded - drawn).mean() < 4
    for n, thing in enumerate(scene.things):  # in the middle of a plain thing its colour is the colour
        x, y, _ = scene.states[n, 0]
        inside = 0 <= x < CONFIG.width and 0 <= y < CONFIG.height  # NaN: away
        if thing.texture == "plain" and scene.visible[n, 0] == 1 and inside:
            assert np.abs(decoded[0, int(y), int(x)] - COLOURS[thing.colour]).max() < 30


def test_video_bytes_depend_on_the_scene_alone(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_video(make_scene(CONFIG, "test", 1), tmp_path / name)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_stills_show_whole_things():
    for index in range(20):
        still = make_still(CONFIG, "train", index, 0)
        assert still.num_frames == 1 and 3 <= len(still.things) <= 5
        assert len(still.state_at(0)) == len(still.things)


def test_other_sizes_of_world():
    config = MovingShapesConfig(width=320, height=240, fps=5, num_frames=21)
    scene = make_scene(config, "train", 0)
    assert render_frames(scene).shape == (21, 240, 320, 3)


def test_a_length_off_the_second_is_refused():
    with pytest.raises(ValueError, match="num_frames must be 1 \\+ fps"):
        MovingShapesConfig(num_frames=60)


def _extent(pixels: np.ndarray) -> np.ndarray | None:
    """(4,) xyxy of what is not black: at least a quarter covered."""
    rows, columns = np.nonzero(pixels.max(-1) > 60)
    if len(rows) == 0:
        return None
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=float)


def _free_share(scene: Scene, n: int, frame: int) -> float:
    masks = []
    for thing in scene.things[n:]:
        plain = replace(scene, things=(replace(thing, texture="plain"),), background=BLACK)
        masks.append(np.asarray(render_frame(plain, frame)).max(-1) > 110)
    hidden = np.any(masks[1:], axis=0) if len(masks) > 1 else np.zeros_like(masks[0])
    return float((masks[0] & ~hidden).sum() / masks[0].sum())
