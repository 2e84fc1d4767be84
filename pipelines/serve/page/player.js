// The video, the boxes over it and the timeline below. An answer is {tube, best, things, colour, shown}.

import { moment } from "./time.js";

const SVG = "http://www.w3.org/2000/svg";
const at = (id) => document.getElementById(id);

// The box of `tube` on the frame shown at `seconds`, linear between frames; null outside its span.
export function boxAt(tube, seconds, frameOf) {
  const { boxes } = tube;
  if (!boxes.length) return null;
  const place = frameOf(seconds) - boxes[0][0];
  if (place < 0 || place >= boxes.length) return null;
  const low = Math.floor(place);
  const high = Math.min(low + 1, boxes.length - 1);
  const share = place - low;
  return [1, 2, 3, 4].map((i) => boxes[low][i] * (1 - share) + boxes[high][i] * share);
}

// Seconds to a frame number: the video's own times where its rate varies.
function frames({ fps, times_s: times }) {
  if (!times) return (seconds) => Math.floor(seconds * fps + 0.01);
  return (seconds) => {
    let low = 0;
    let high = times.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (times[middle] <= seconds + 1e-3) low = middle;
      else high = middle - 1;
    }
    return low;
  };
}

export class Player {
  constructor() {
    [this.video, this.boxes, this.screen] = ["video", "boxes", "screen"].map(at);
    [this.timeline, this.tracks, this.head, this.axis] = ["timeline", "tracks", "head", "axis"].map(at);
    [this.clock, this.button] = ["clock", "play"].map(at);
    this.answers = [];
    this.drawn = false; // whether the boxes are in the picture already
    this.screen.onclick = this.button.onclick = () => this.toggle();
    this.video.onplay = this.video.onpause = this.video.onended = () => this.#showState();
    this.video.onseeked = this.video.onloadeddata = () => this.paint(this.now);
    this.#followTimeline();
    this.#followFrames();
  }

  open(blob, probe, onerror) {
    this.probe = probe;
    this.frameOf = frames(probe);
    this.boxes.setAttribute("viewBox", `0 0 ${probe.width} ${probe.height}`);
    this.screen.style.aspectRatio = `${probe.width} / ${probe.height}`;
    this.screen.style.maxWidth = `calc(64vh * ${probe.width / probe.height})`;
    this.timeline.setAttribute("aria-valuemax", probe.duration_s);
    this.axis.replaceChildren(...ticks(probe.duration_s));
    this.play(blob, onerror);
    this.show([]);
  }

  // Seconds from the first frame, as answers count them. A browser's clock is the file's, where that frame may come late.
  get now() {
    return Math.max(0, this.video.currentTime - this.late);
  }

  play(blob, onerror = null, drawn = false) {
    if (this.video.src) URL.revokeObjectURL(this.video.src);
    this.drawn = drawn;
    this.late = drawn ? 0 : (this.probe.start_s ?? 0); // a drawing begins with its first frame
    this.screen.classList.toggle("drawn", drawn);
    this.video.onerror = onerror;
    this.video.src = URL.createObjectURL(blob);
  }

  close() {
    this.video.pause();
    this.video.onerror = null;
    URL.revokeObjectURL(this.video.src);
    this.video.removeAttribute("src");
    this.video.load();
  }

  show(answers) {
    this.answers = answers;
    this.tracks.replaceChildren(...(answers.length ? answers : [{}]).flatMap((answer) => this.#rows(answer)));
    this.paint(this.now);
  }

  toggle() {
    if (this.video.paused) this.video.play().catch(() => {});
    else this.video.pause();
  }

  seek(seconds) {
    const end = this.probe.duration_s - 0.5 / this.probe.fps; // beyond the last frame's start some browsers show nothing
    this.video.currentTime = this.late + Math.max(0, Math.min(seconds, end));
    this.paint(this.now);
  }

  // Whole frames: to the middle of the next or last one, which no rounding can miss.
  step(count) {
    this.video.pause();
    const { times_s: times, fps } = this.probe;
    const frame = Math.max(0, this.frameOf(this.now) + count);
    this.seek(times ? times[Math.min(frame, times.length - 1)] + 0.1 / fps : (frame + 0.5) / fps);
  }

  paint(seconds) {
    const shown = this.drawn ? [] : this.answers.filter(({ shown, tube }) => shown && tube);
    const things = shown.flatMap((answer) => answer.things).reverse(); // the first comes out on top
    const boxOf = ({ parts }) => parts.map((part) => boxAt(part, seconds, this.frameOf)).find(Boolean);
    this.boxes.replaceChildren(...things.flatMap((thing) => box(boxOf(thing), thing.colour)));
    const { duration_s: duration = 0 } = this.probe ?? {};
    this.head.style.left = `${Math.min(100, (100 * seconds) / duration)}%`;
    this.clock.textContent = `${moment(seconds)} of ${moment(duration)}`;
    this.timeline.setAttribute("aria-valuenow", seconds.toFixed(2));
    this.timeline.setAttribute("aria-valuetext", `${seconds.toFixed(1)} seconds`);
  }

  #showState() {
    document.body.classList.toggle("playing", !this.video.paused && !this.video.ended);
    this.button.setAttribute("aria-label", this.video.paused ? "Play" : "Pause");
  }

  // A row for each thing; until there is an answer one, with the best so far of a film that is still looked at.
  #rows({ tube, best, things = [], colour, shown }) {
    const off = shown === false || !tube;
    return tube ? things.map((thing) => this.#row(thing, off)) : [this.#row({ colour, parts: best ? [best] : [] }, off)];
  }

  #row({ colour, parts }, off) {
    const track = document.createElement("div");
    track.className = off ? "track off" : "track";
    for (const { begin_s: begin, end_s: end } of parts) {
      if (begin === null) continue;
      const bar = document.createElement("i");
      bar.style.setProperty("--colour", colour);
      bar.style.left = `${(100 * begin) / this.probe.duration_s}%`;
      bar.style.width = `max(3px, ${(100 * (end - begin)) / this.probe.duration_s}%)`;
      track.append(bar);
    }
    return track;
  }

  #followTimeline() {
    const go = (event) => {
      const { left, width } = this.timeline.getBoundingClientRect();
      this.seek(((event.clientX - left) / width) * this.probe.duration_s);
    };
    this.timeline.onpointerdown = (event) => {
      this.timeline.setPointerCapture(event.pointerId);
      go(event);
    };
    this.timeline.onpointermove = (event) => event.buttons && go(event);
  }

  // The time of the frame on screen, not of the clock: else boxes run ahead of the picture.
  #followFrames() {
    if ("requestVideoFrameCallback" in this.video) {
      const next = (_, { mediaTime }) => {
        if (!this.video.seeking) this.paint(Math.max(0, mediaTime - this.late));
        this.video.requestVideoFrameCallback(next);
      };
      this.video.requestVideoFrameCallback(next);
    } else {
      this.video.ontimeupdate = () => this.paint(this.now);
    }
  }
}

// The times of the beginning, the quarters and the end.
function ticks(duration) {
  return [0, 0.25, 0.5, 0.75, 1].map((share) => {
    const tick = document.createElement("span");
    tick.textContent = moment(share * duration, duration < 20 ? 1 : 0);
    return tick;
  });
}

// A line with a dark rim shows on any ground.
function box(corners, colour) {
  if (!corners) return [];
  const [x1, y1, x2, y2] = corners;
  return ["rim", "line"].map((kind) => {
    const rect = document.createElementNS(SVG, "rect");
    const values = { class: kind, x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1), rx: 1 };
    for (const [name, value] of Object.entries(values)) rect.setAttribute(name, value);
    rect.style.setProperty("--colour", colour);
    return rect;
  });
}
