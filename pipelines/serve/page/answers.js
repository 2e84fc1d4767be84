// The list of questions and answers; each thing that answers has a colour of its own (the overlay's, in the same order).

import { stretch } from "./time.js";

const COLOURS = ["#ff8a3d", "#35b6f2", "#c58bff", "#ffd23f", "#ff6fa5", "#5ad1a0"];
const template = document.getElementById("answer");

export class Answers {
  constructor(changed, goTo, again) {
    this.list = document.getElementById("answers");
    this.all = [];
    this.changed = changed; // called when what is to be drawn has changed
    this.goTo = goTo; // called with the tube to look at
    this.again = again; // called with a question that failed and is to be asked anew
  }

  get tubes() {
    return this.all.filter(({ tube }) => tube).map(({ tube }) => tube);
  }

  get drawable() {
    return this.tubes.some(({ boxes }) => boxes.length);
  }

  clear() {
    for (const entry of this.all) entry.stop.abort();
    this.all = [];
    this.list.replaceChildren();
    this.changed();
  }

  // A question on its way; `tell` says how far it is, `settle` gives it its tube, `fail` its trouble.
  add(question) {
    const colour = this.#freeColour();
    const item = template.content.firstElementChild.cloneNode(true);
    const entry = { question, colour, item, tube: null, best: null, things: [], shown: true, stop: new AbortController() };
    item.style.setProperty("--colour", colour);
    item.classList.add("waiting");
    item.querySelector(".asked").textContent = item.querySelector(".asked").title = question;
    item.querySelector(".sure").textContent = "looking …";
    for (const part of item.querySelectorAll(".span, .copy")) part.hidden = true;
    item.querySelector(".remove").textContent = "Cancel";
    item.querySelector(".chip").onclick = () => this.#toggle(entry);
    item.querySelector(".remove").onclick = () => this.#remove(entry);
    this.all.push(entry);
    this.#label();
    this.list.append(item);
    this.changed();
    return entry;
  }

  // Of a film, which takes its time: how many of its parts were looked at, and the best of them so far.
  tell(entry, { done, total, best: [best] }) {
    const bar = entry.item.querySelector(".walk");
    bar.hidden = false;
    bar.max = total;
    bar.value = done;
    const place = best ? `, best so far ${stretch(best.begin_s, best.end_s, 0)}` : "";
    const step = done < total ? `looked at ${done} of ${total} parts` : "looking closer";
    entry.item.querySelector(".sure").textContent = step + place;
    entry.best = best;
    this.changed();
  }

  // An answer's own fields are its best tube's; `more` holds the others, `track` says of which thing.
  settle(entry, tube) {
    entry.tube = tube;
    for (const part of [tube, ...(tube.more ?? [])]) {
      const number = part.track ?? 0;
      entry.things[number] ??= { colour: number ? this.#freeColour() : entry.colour, parts: [] };
      entry.things[number].parts.push(part);
    }
    done(entry);
    const sure = entry.item.querySelector(".sure");
    if (tube.begin_s === null) {
      sure.textContent = tube.answer ? `not found, the model says “${tube.answer}”` : "not found";
    } else {
      const first = entry.item.querySelector(".span");
      const places = entry.things.flatMap(({ colour, parts }) => parts.map((part) => this.#place(first, part, colour)));
      first.replaceWith(...places);
      for (const place of places) place.classList.toggle("marked", entry.things.length > 1);
      const confidence = `confidence ${Math.round(100 * tube.confidence)} %`;
      sure.textContent = tube.present === false ? `probably not there, ${confidence}` : confidence;
    }
    const copy = entry.item.querySelector(".copy");
    copy.hidden = false;
    copy.onclick = () => copyJson(tube, copy);
    this.changed();
  }

  fail(entry, trouble) {
    done(entry);
    entry.item.classList.add("failed");
    entry.item.querySelector(".sure").textContent = `${trouble.message} ${trouble.detail ?? ""}`;
    const again = entry.item.querySelector(".again");
    again.hidden = false;
    again.onclick = () => (this.#remove(entry), this.again(entry.question));
    this.changed();
  }

  // A button that says when, and goes there.
  #place(model, part, colour) {
    const place = model.cloneNode(true);
    place.hidden = false;
    place.textContent = stretch(part.begin_s, part.end_s);
    place.style.setProperty("--colour", colour);
    place.onclick = () => this.goTo(part);
    return place;
  }

  #freeColour() {
    const taken = this.all.flatMap(({ colour, things }) => [colour, ...things.map((thing) => thing.colour)]);
    return COLOURS.find((one) => !taken.includes(one)) ?? COLOURS[taken.length % COLOURS.length];
  }

  #toggle(entry) {
    entry.shown = !entry.shown;
    this.#label();
    this.changed();
  }

  #remove(entry) {
    entry.stop.abort();
    this.all = this.all.filter((other) => other !== entry);
    entry.item.remove();
    this.#label();
    this.changed();
    document.getElementById("question").focus();
  }

  // The number of an answer is the key that goes to it.
  #label() {
    for (const [place, { item, question, shown }] of this.all.entries()) {
      const chip = item.querySelector(".chip");
      chip.textContent = place + 1;
      chip.setAttribute("aria-pressed", shown);
      chip.setAttribute("aria-label", `Show the box of answer ${place + 1}: ${question}`);
      chip.title = shown ? "Hide its box" : "Show its box";
    }
  }
}

function done({ item }) {
  item.classList.remove("waiting", "failed");
  for (const part of item.querySelectorAll(".walk, .again")) part.hidden = true;
  item.querySelector(".remove").textContent = "Remove";
}

export async function copyJson(value, button) {
  const text = button.textContent;
  try {
    await navigator.clipboard.writeText(JSON.stringify(value));
    button.textContent = "Copied";
  } catch {
    button.textContent = "The browser does not allow it";
  }
  setTimeout(() => (button.textContent = text), 1500);
}
