// The server's API, and its problems in words for a person.

const KIND = {
  no_key: "This server asks for its key.",
  upload_too_large: "This video is larger than the server takes.",
  not_a_video: "This file is not a video that can be read.",
  no_video_stream: "There is sound in this file, but no picture.",
  empty_file: "This file is empty.",
  truncated: "This video is cut off: its end is missing.",
  undecodable_frames: "This video is damaged: some of its frames cannot be read.",
  still_image: "This is a picture. A video is needed to ask when something happens.",
  too_large: "This video is longer, or its picture larger, than the server takes.",
  timeout: "Reading this video took too long.",
  crashed: "This video could not be read.",
  unknown_video: "The server does not have this video any more. Please open it again.",
  missing_video: "There is no such video.",
  outside_media_root: "The server may not read this address.",
  no_media_root: "This server takes files only.",
  question_too_long: "This question is too long.",
  busy: "The server is busy. Please try again in a moment.",
  offline: "The server does not answer.",
  internal_error: "The server made a mistake.",
  not_ready: "The model is not ready yet. Please try again in a moment.",
};

export class Trouble extends Error {
  constructor(problem) {
    super(KIND[problem.reason] ?? "That did not work.");
    this.reason = problem.reason;
    this.detail = problem.detail ?? "";
  }
}

const OFFLINE = { reason: "offline", detail: "Is it still running?" };
let key = sessionStorage.getItem("spacevllm.key") ?? "";

export function useKey(text) {
  key = text;
  sessionStorage.setItem("spacevllm.key", text);
}

function headers(more = {}) {
  return key ? { authorization: `Bearer ${key}`, ...more } : more;
}

async function call(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: headers(options.headers) }).catch(() => null);
  if (!answer) throw new Trouble(OFFLINE);
  if (!answer.ok) throw new Trouble(await answer.json().catch(() => ({ detail: `The server says ${answer.status}.` })));
  return answer;
}

function post(path, body, signal) {
  return call(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal });
}

export const settings = () => call("/page/settings.json").then((answer) => answer.json());
export const name = (uri) => post("/v1/videos", { uri }).then((answer) => answer.json());
export const file = (id) => call(`/v1/videos/${id}/file`).then((answer) => answer.blob());

// The answer; until then, `told` is called with each {done, total, best} of a film. `signal` ends the work, here and there.
export async function ask(video, question, told, signal) {
  const answer = await post("/v1/ground", { video, question, stream: true }, signal);
  for await (const { event, data } of events(answer.body)) {
    if (event === "progress") told(data);
    else if (event === "problem") throw new Trouble(data);
    else return data;
  }
  throw new Trouble(OFFLINE);
}

// Server-sent events; EventSource itself cannot post.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch(() => ({ done: true }));
      if (done) return;
      const whole = (text + value).split("\n\n");
      text = whole.pop();
      for (const part of whole) {
        const fields = Object.fromEntries(part.split("\n").map((line) => line.split(/: (.*)/s)));
        if (fields.event) yield { event: fields.event, data: JSON.parse(fields.data) };
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // a connection that is of no more use
  }
}

export function overlay(id, questions) {
  const query = new URLSearchParams(questions.map((question) => ["question", question]));
  return call(`/v1/videos/${id}/overlay?${query}`).then((answer) => answer.blob());
}

// fetch does not tell how far an upload is
export function send(file, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const form = new FormData();
    form.append("file", file);
    request.open("POST", "/v1/videos");
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.responseType = "json";
    request.upload.onprogress = (event) => progress(event.loaded / event.total);
    request.onerror = () => reject(new Trouble(OFFLINE));
    request.onload = () =>
      request.status === 200 ? resolve(request.response) : reject(new Trouble(request.response ?? OFFLINE));
    request.send(form);
  });
}
