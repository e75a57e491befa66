// What the model is: its name, a sentence, and a line of facts.

import { byId, element } from "./dom.js";

/** Show a model of `/v1/models`. A fact that the server does not know is left out. */
export function showFacts(model) {
  const facts = model.gptcli ?? {};
  byId("model-name").textContent = model.id;
  document.title = `${model.id} – gptcli`;
  byId("description").textContent = facts.description ?? "The server tells nothing about this model.";
  byId("facts").replaceChildren(...lines(facts).map(([name, value, title, isMinor]) =>
    element("div", { class: isMinor ? "fact minor" : "fact", title }, element("dt", { text: name }), element("dd", { text: value, dir: "auto" }))));
}

function lines(facts) {
  const found = [];
  const add = (known, name, value, title, isMinor = false) => {
    if (known !== null && known !== undefined && known.length !== 0) found.push([name, value, title, isMinor]);
  };
  add(facts.corpus, "Trained on", trainedOn(facts));
  add(facts.base, "Started from", facts.base, undefined, true);
  add(facts.bits_per_byte, "Bits per byte", String(facts.bits_per_byte),
    "How well it predicts text that it was not trained on: less is better");
  if (facts.bits_per_byte === null) {
    add(facts.validation_loss, "Validation loss", `${facts.validation_loss} nats a token`);
  }
  add(facts.parameters, "Parameters", short(facts.parameters), facts.parameters?.toLocaleString("en"), true);
  add(facts.context, "Context", `${facts.context?.toLocaleString("en")} tokens`,
    "The most tokens that it reads at once", true);
  add(facts.vocabulary, "Vocabulary", `${facts.vocabulary?.toLocaleString("en")} tokens`, facts.tokenizer, true);
  add(facts.step, "Step", facts.step?.toLocaleString("en"), "Of its training", true);
  add(facts.stop_tokens, "Ends at", facts.stop_tokens?.join(" "), undefined, true);
  return found;
}

function trainedOn({ corpus, training_bytes: bytes, examples }) {
  const names = corpus?.length > 3 ? `${corpus.slice(0, 3).join(", ")} and ${corpus.length - 3} more` : corpus?.join(", ");
  const size = examples ? `${examples.toLocaleString("en")} examples` : bytes ? inBytes(bytes) : "";
  return size ? `${names} (${size})` : names;
}

function inBytes(bytes) {
  const power = Math.min(Math.floor(Math.log10(Math.max(bytes, 1)) / 3), 4);
  return `${trimmed(bytes / 1000 ** power)} ${["bytes", "kB", "MB", "GB", "TB"][power]}`;
}

function short(count) {
  if (!count) return "";
  const power = Math.min(Math.floor(Math.log10(count) / 3), 3);
  return power < 2 ? count.toLocaleString("en") : `${trimmed(count / 1000 ** power)} ${["", "", "M", "B"][power]}`;
}

const trimmed = (number) => (number < 10 ? number.toFixed(1) : number.toFixed(0));
