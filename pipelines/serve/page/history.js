// Questions asked earlier, on this machine only.

const NAME = "spacevllm.questions";
const MOST = 12;

export function earlier() {
  try {
    const kept = JSON.parse(localStorage.getItem(NAME));
    return Array.isArray(kept) ? kept.filter((question) => typeof question === "string") : [];
  } catch {
    return [];
  }
}

export function remember(question) {
  const all = [question, ...earlier().filter((other) => other !== question)];
  keep(all.slice(0, MOST));
}

export const forget = () => keep([]);

function keep(questions) {
  try {
    localStorage.setItem(NAME, JSON.stringify(questions));
  } catch {
    // a browser that keeps nothing: the page works without
  }
}
