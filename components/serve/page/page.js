"use strict";

const WAIT_MS = 300;
const MOST_BITS = 16;
const byId = (id) => document.getElementById(id);
let model = null;
let asked = 0;

function shade(bits) {
  const share = Math.min(Math.max(bits / MOST_BITS, 0), 1);
  return `hsl(${48 - 34 * share} 95% ${98 - 33 * share}%)`;
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;  // never as HTML: it is what someone typed
  return made;
}

async function answer(response) {
  const body = await response.json();
  if (!response.ok) throw new Error(body.error || response.statusText);
  return [body, response.headers.get("x-model-version")];
}

async function predict(signature, inputs) {
  const response = await fetch(`/v1/models/${encodeURIComponent(model)}:predict`, {
    method: "POST",
    headers: {"content-type": "application/json"},
    body: JSON.stringify({signature_name: signature, inputs}),
  });
  const [body, version] = await answer(response);
  byId("about").textContent = `version ${version} of a model that reads words and their characters`;
  return body.outputs;
}

function showWords(scores) {
  const place = byId("words");
  place.replaceChildren();
  const count = scores.words[0];
  const unknowns = scores.unknown?.[0] ?? [];  // a model of before does not tell
  scores.tokens[0].slice(0, count).forEach((token, at) => {
    const bits = -scores.word_log_likelihoods[0][at] / Math.LN2;
    const unknown = unknowns[at];
    const word = element("span", unknown ? "unknown" : "", token === "</s>" ? "↵" : token);
    word.style.background = shade(bits);
    word.title = `${bits.toFixed(1)} bits${unknown ? ", as any unknown word here" : ""}`;
    place.append(word, " ");
  });
  byId("figures").textContent = count
    ? `${count} words, ${unknowns.filter(Boolean).length} unknown, perplexity ${scores.perplexity[0].toFixed(1)}`
    : "Type something.";
}

function showBars(id, words, values, format) {
  const most = Math.max(...values, 1e-9);
  byId(id).replaceChildren(...words.map((word, at) => {
    const row = element("li");
    const bar = element("progress");
    bar.max = 1;
    bar.value = Math.max(values[at], 0) / most;
    row.append(element("span", "word", word === "</s>" ? "↵ (line end)" : word), bar,
      element("span", "value", format(values[at])));
    return row;
  }));
}

const percent = (value) => `${(100 * value).toFixed(1)} %`;

async function read() {
  const ticket = ++asked;
  const text = byId("text").value;
  const word = byId("word").value.trim().split(/\s+/)[0] || "";
  const phrase = `the ${word}`;
  try {
    const [scores, next] = await Promise.all([
      predict("score", {texts: [text]}), predict("next_word", {texts: [text, phrase], k: 6})]);
    const alike = word ? await predict("similar", {words: [word], k: 6}).catch(() => null) : null;
    if (ticket !== asked) return;  // a later question has been asked
    showWords(scores);
    showBars("next", next.words[0], next.probabilities[0], percent);
    byId("phrase").textContent = phrase;
    showBars("after", next.words[1], next.probabilities[1], percent);
    if (alike) showBars("similar", alike.words[0], alike.similarities[0], (v) => v.toFixed(2));
    else byId("similar").replaceChildren();
    byId("error").hidden = true;
    document.body.dataset.read = String(ticket);
  } catch (error) {
    if (ticket !== asked) return;
    byId("error").textContent = error.message;
    byId("error").hidden = false;
  }
}

async function begin() {
  for (let at = 0; at < 24; at++) {
    const step = element("i");
    step.style.background = shade(MOST_BITS * at / 23);
    byId("scale").append(step);
  }
  try {
    const [body] = await answer(await fetch("/v1/models"));
    model = body.models[0];
  } catch (error) {
    byId("error").textContent = `The server does not answer (${error.message}).`;
    byId("error").hidden = false;
    return;
  }
  byId("name").textContent = model;
  document.title = model;
  byId("address").textContent = `POST /v1/models/${model}:predict`;
  let timer = 0;
  for (const id of ["text", "word"]) {
    byId(id).addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(read, WAIT_MS);
    });
  }
  await read();
}

begin();
