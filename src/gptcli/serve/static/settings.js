// The settings of requests: a form made from one table, kept in this browser.

import { byId, element } from "./dom.js";

const STORE = "gptcli-settings";
const MOST_STOPS = 4;
const MOST_SEEDS = 1_000_000;

/** name: the field of the API. `none` is the value that means "not set", which is not sent. */
const FIELDS = [
  { name: "system", label: "System prompt", kind: "text", rows: 3, value: "", help: "What the model is told before the chat." },
  { name: "temperature", label: "Temperature", kind: "range", min: 0, max: 2, step: 0.05, value: 0.8,
    help: "0 always takes the likeliest token; higher is wilder." },
  { name: "top_p", label: "Top-p", kind: "range", min: 0.05, max: 1, step: 0.01, value: 1, none: 1,
    help: "Draw from the likeliest tokens that together have this probability." },
  { name: "top_k", label: "Top-k", kind: "number", min: 1, max: 1000000, step: 1, value: "", placeholder: "all",
    help: "Draw from this many likeliest tokens." },
  { name: "min_p", label: "Min-p", kind: "range", min: 0, max: 1, step: 0.01, value: 0, none: 0,
    help: "Drop tokens below this share of the likeliest one." },
  { name: "max_tokens", label: "Most tokens", kind: "number", min: 1, max: 1000000, step: 1, value: 200,
    help: "An answer ends there at the latest." },
  { name: "seed", label: "Seed", kind: "number", min: 0, max: 2147483647, step: 1, value: "", placeholder: "new each time",
    help: "The same seed gives the same answer." },
  { name: "stop", label: "Stop at", kind: "text", rows: 2, value: "", help: "Up to four texts that end an answer, one a line; \\n is a line break." },
  { name: "repetition_penalty", label: "Repetition penalty", kind: "range", min: 1, max: 2, step: 0.05, value: 1, none: 1,
    help: "Above 1, what was already written is less likely." },
  { name: "presence_penalty", label: "Presence penalty", kind: "range", min: -2, max: 2, step: 0.1, value: 0, none: 0,
    help: "Taken once from each token that the answer has." },
  { name: "frequency_penalty", label: "Frequency penalty", kind: "range", min: -2, max: 2, step: 0.1, value: 0, none: 0,
    help: "Taken for each time that a token occurs in the answer." },
  { name: "slide", label: "Go on when the context is full", kind: "check", value: false,
    help: "Keeps the last half of the text and reads it again." },
];

const inputs = new Map();

/** Make the form, with the values that this browser has kept. */
export function makeSettings() {
  const kept = read();
  byId("settings-form").replaceChildren(...FIELDS.map((field) => row(field, kept[field.name] ?? field.value)));
  byId("settings-form").addEventListener("submit", (event) => event.preventDefault());
  byId("settings-form").addEventListener("input", write);
  byId("settings-reset").addEventListener("click", () => {
    for (const field of FIELDS) show(field, field.value);
    write();
  });
}

/** Return the system prompt; empty if there is none. */
export const systemPrompt = () => inputs.get("system").value.trim();

/**
 * Return the fields of a request.
 * `attempt` counts the answers to the same text before this one, so that another answer to it is another one.
 */
export function requestFields(attempt) {
  const fields = {};
  for (const field of FIELDS) {
    if (field.kind === "text" || field.kind === "check") continue;
    const number = inputs.get(field.name).valueAsNumber;
    if (Number.isFinite(number) && number !== field.none) fields[field.name] = clamp(number, field);
  }
  const seed = fields.seed === undefined ? Math.floor(Math.random() * MOST_SEEDS) : fields.seed + attempt;
  const stop = inputs.get("stop").value.split("\n").map((line) => line.replaceAll("\\n", "\n")).filter(Boolean);
  return {
    ...fields,
    seed,
    ...(stop.length ? { stop: stop.slice(0, MOST_STOPS) } : {}),
    ...(inputs.get("slide").checked ? { overflow: "slide" } : {}),
  };
}

function clamp(number, { min, max, step }) {
  const inside = Math.min(Math.max(number, min), max);
  return step === 1 ? Math.round(inside) : inside;
}

function row(field, value) {
  const id = `setting-${field.name}`;
  const described = { id, name: field.name, "aria-describedby": `${id}-help` };
  const input = field.kind === "text"
    ? element("textarea", { ...described, rows: field.rows, dir: "auto", spellcheck: "false" })
    : element("input", {
      ...described,
      type: field.kind === "check" ? "checkbox" : field.kind,
      min: field.min, max: field.max, step: field.step, placeholder: field.placeholder,
      inputmode: field.kind === "number" ? "numeric" : undefined,
    });
  inputs.set(field.name, input);
  const label = element("label", { for: id, text: field.label });
  const help = element("p", { id: `${id}-help`, class: "help", text: field.help });
  const made = element("div", { class: "field" });
  if (field.kind === "range") {
    const shown = element("output", { for: id, id: `${id}-value` });
    input.addEventListener("input", () => { shown.value = decimals(input.valueAsNumber); });
    made.append(element("div", { class: "field-head" }, label, shown), input, help);
  } else if (field.kind === "check") {
    made.append(element("div", { class: "field-head" }, label, input), help);
  } else {
    made.append(label, input, help);
  }
  show(field, value);
  if (field.kind === "range") made.querySelector("output").value = decimals(input.valueAsNumber);
  return made;
}

function show(field, value) {
  const input = inputs.get(field.name);
  if (field.kind === "check") input.checked = Boolean(value);
  else input.value = String(value);
  const shown = byId(`setting-${field.name}-value`);
  if (shown) shown.value = decimals(input.valueAsNumber);
}

const decimals = (number) => number.toFixed(2);

function read() {
  try {
    const kept = JSON.parse(localStorage.getItem(STORE) ?? "{}");
    return typeof kept === "object" && kept !== null ? kept : {};
  } catch {
    return {};
  }
}

function write() {
  const values = {};
  for (const field of FIELDS) {
    const input = inputs.get(field.name);
    values[field.name] = field.kind === "check" ? input.checked : input.value;
  }
  try {
    localStorage.setItem(STORE, JSON.stringify(values));
  } catch {
    // storage is forbidden or full: the settings live as long as the page
  }
}
