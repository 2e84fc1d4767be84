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
  not_ready: "The model is not ready yet. Please try again in a moment.",
};

export class Trouble extends Error {
  constructor(problem) {
    super(KIND[problem.reason] ?? "That did not work.");
    this.reason = problem.reason;
    this.detail = problem.detail ?? "";
  }
}

const OFFLINE = { reason: "offline", detail: "The server does not answer." };
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

function post(path, body) {
  const options = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  return call(path, options).then((answer) => answer.json());
}

export const settings = () => call("/page/settings.json").then((answer) => answer.json());
export const name = (uri) => post("/v1/videos", { uri });
export const ask = (video, question) => post("/v1/ground", { video, question });
export const file = (id) => call(`/v1/videos/${id}/file`).then((answer) => answer.blob());

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
