// The page: choose a video, ask, look. What a user or the server says enters it as text, never as markup.

import * as api from "./api.js";
import { Answers, copyJson } from "./answers.js";
import * as history from "./history.js";
import { Player } from "./player.js";
import { stretch } from "./time.js";

const at = (id) => document.getElementById(id);
const player = new Player();
const answers = new Answers(redraw, watch, ask);
let settings = { needs_key: false, names: false, max_upload_mb: 0 };
let video = null; // {id, name, probe} of the one that is open
let waiting = null; // what a missing key kept from being done

function redraw() {
  player.show(answers.all);
  showEarlier();
  at("all").hidden = !answers.tubes.length;
  at("save").hidden = !answers.drawable;
}

function watch(tube) {
  player.seek(tube.begin_s + 0.01);
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) player.video.play().catch(() => {});
}

function tell(trouble) {
  at("trouble").hidden = !trouble;
  if (!trouble) return;
  const head = document.createElement("strong");
  head.textContent = `${trouble.message} `;
  at("trouble").replaceChildren(head, trouble.detail ?? "");
}

// Does it; what goes wrong is told, and what lacks the key is done again with it.
async function attempt(deed) {
  tell(null);
  try {
    return await deed();
  } catch (trouble) {
    if (trouble.reason === "no_key") {
      waiting = deed;
      at("key-form").hidden = false;
      at("key").focus();
    } else tell(trouble);
    if (!(trouble instanceof api.Trouble)) throw trouble;
  }
  return null;
}

async function open(file) {
  const most = settings.max_upload_mb;
  if (most && file.size > most * 2 ** 20) {
    tell(new api.Trouble({ reason: "upload_too_large", detail: `At most ${most} MB.` }));
    return;
  }
  const bar = at("progress");
  bar.hidden = false;
  bar.value = 0;
  await attempt(async () => {
    const found = await api.send(file, (share) => (share < 1 ? (bar.value = share) : bar.removeAttribute("value")));
    start(found, file);
  });
  bar.hidden = true;
}

function start(found, blob) {
  video = found;
  answers.clear();
  at("choose").hidden = true;
  at("work").hidden = false;
  at("name").textContent = video.name;
  player.open(blob, video.probe, cannotPlay);
  at("question").focus({ preventScroll: true });
}

// A codec that the browser does not have: the server's drawn copy is in one that it has.
async function cannotPlay() {
  const asked = answers.tubes.map((tube) => tube.question);
  if (!asked.length) {
    tell({ message: "This browser cannot play the video.", detail: "Ask, and a copy with the boxes drawn in is shown." });
    return;
  }
  await attempt(async () => player.play(await api.overlay(video.id, asked), null, true));
}

async function ask(question) {
  history.remember(question);
  const [asked, entry] = [video, answers.add(question)];
  at("status").textContent = "Looking";
  await attempt(async () => {
    try {
      const { tubes } = await api.ask(asked.id, question, (progress) => answers.tell(entry, progress), entry.stop.signal);
      await answered(entry, tubes[0]);
    } catch (trouble) {
      if (entry.stop.signal.aborted) return; // removed, or another video was opened
      answers.fail(entry, trouble); // it says what went wrong
      if (trouble.reason === "no_key" || !(trouble instanceof api.Trouble)) throw trouble;
      at("status").textContent = trouble.message;
    }
  });
}

async function answered(entry, tube) {
  answers.settle(entry, tube);
  const found = tube.begin_s !== null;
  const others = tube.more?.length ? `, and ${tube.more.length} more` : "";
  at("status").textContent = found ? `Found from ${stretch(tube.begin_s, tube.end_s, 1)}${others}` : "Not found";
  if (player.video.error || player.drawn) await cannotPlay();
  if (found) watch(tube);
}

function showEarlier() {
  const here = answers.all.map(({ question }) => question);
  const items = history.earlier().filter((question) => !here.includes(question)).map((question) => {
    const [item, button] = [document.createElement("li"), document.createElement("button")];
    button.type = "button";
    button.className = "plain";
    button.textContent = question;
    button.onclick = () => ask(question);
    item.append(button);
    return item;
  });
  at("earlier").hidden = !items.length;
  at("earlier").querySelector("ul").replaceChildren(...items);
}

function another() {
  player.close();
  answers.clear();
  tell(null);
  video = null;
  at("work").hidden = true;
  at("choose").hidden = false;
  at("file").value = "";
  at("pick").focus();
}

async function save() {
  const blob = await attempt(() => api.overlay(video.id, answers.tubes.map((tube) => tube.question)));
  if (!blob) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${video.name.replace(/\.[^.]*$/, "")}-boxes.mp4`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function keys(event) {
  const typing = event.target.closest("input, textarea");
  if (event.ctrlKey || event.metaKey || event.altKey || !video) return;
  if (typing) {
    if (event.key === "Escape") typing.blur();
    return;
  }
  const far = event.shiftKey;
  const deeds = {
    "/": () => at("question").focus(),
    ArrowLeft: () => (far ? player.seek(player.now - 1) : player.step(-1)),
    ArrowRight: () => (far ? player.seek(player.now + 1) : player.step(1)),
    Home: () => player.seek(0),
    End: () => player.seek(Infinity),
  };
  if (!event.target.closest("button, a")) deeds[" "] = () => player.toggle(); // on a button, space presses it
  const number = answers.all[Number(event.key) - 1];
  if (number?.tube?.boxes.length) deeds[event.key] = () => watch(number.tube);
  if (!deeds[event.key]) return;
  event.preventDefault();
  deeds[event.key]();
}

function wire() {
  const drop = at("drop");
  at("pick").onclick = () => at("file").click();
  at("file").onchange = () => at("file").files[0] && open(at("file").files[0]);
  addEventListener("dragover", (event) => (event.preventDefault(), drop.classList.add("over")));
  addEventListener("dragleave", (event) => event.relatedTarget ?? drop.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (!event.dataTransfer.files[0]) return;
    if (video) another(); // there one sees how far it is
    open(event.dataTransfer.files[0]);
  });
  addEventListener("keydown", keys);
  at("address-form").onsubmit = (event) => {
    event.preventDefault();
    at("progress").hidden = false;
    at("progress").removeAttribute("value");
    attempt(async () => {
      const found = await api.name(at("address").value.trim());
      start(found, await api.file(found.id));
    }).finally(() => (at("progress").hidden = true));
  };
  at("key-form").onsubmit = (event) => {
    event.preventDefault();
    api.useKey(at("key").value.trim());
    at("key-form").hidden = true;
    attempt(waiting ?? (async () => {}));
  };
  at("question").oninput = () => {
    const [length, most] = [[...at("question").value].length, settings.max_question_chars];
    const long = most && length > most;
    at("question").setCustomValidity(long ? `A question has at most ${most} characters, this one has ${length}.` : "");
  };
  at("ask").onsubmit = (event) => {
    event.preventDefault();
    const question = at("question").value.trim();
    if (question) ask(question);
    at("question").value = "";
  };
  at("another").onclick = another;
  at("copy-all").onclick = () => copyJson(answers.tubes, at("copy-all"));
  at("save").onclick = save;
  at("forget").onclick = () => (history.forget(), showEarlier(), at("question").focus());
}

wire();
showEarlier();
settings = (await attempt(api.settings)) ?? settings;
at("limits").textContent = settings.max_upload_mb ? `up to ${settings.max_upload_mb} MB · it goes to this server only` : "";
at("address-form").hidden = !settings.names;
at("model").textContent = settings.model ? `model “${settings.model}” ${settings.digest}` : "";
at("key-form").hidden = !settings.needs_key || Boolean(sessionStorage.getItem("spacevllm.key"));
