// One generation under way: its stop, its count of tokens and its time.

import { counted } from "./dom.js";

const ENDS = { length: "stopped at the limit", stopped: "stopped by you" };
const WORTH_SAYING = 0.5;

/** A generation with the fields of its request; `end` says why it ended: null if it failed. */
export class Run {
  constructor(fields) {
    this.fields = fields;
    this.controller = new AbortController();
    this.began = performance.now();
    this.first = null;
    this.end = null;
    this.usage = null;
  }

  get signal() {
    return this.controller.signal;
  }

  stop() {
    this.end = "stopped";
    this.controller.abort();
  }

  /** Take what a chunk says about the whole, and return its choice, if it has one. */
  take(chunk) {
    this.first ??= performance.now();
    if (chunk.usage) this.usage = chunk.usage;
    const choice = chunk.choices?.[0];
    if (choice?.finish_reason && this.end === null) this.end = choice.finish_reason;
    return choice;
  }

  get tokens() {
    return this.usage?.completion_tokens ?? 0;
  }

  /** Return a line on what the generation took. `context` is the model's, in tokens. */
  summary(context = Infinity) {
    const parts = [];
    const made = this.tokens;
    if (made) {
      parts.push(counted(made, "token"));
      const seconds = (performance.now() - this.first) / 1000;
      if (made > 1 && seconds > 0.05) parts.push(`${Math.round((made - 1) / seconds).toLocaleString("en")} a second`);
    }
    if (ENDS[this.end]) parts.push(ENDS[this.end]);
    const full = ((this.usage?.prompt_tokens ?? 0) + made) / context;
    if (full > WORTH_SAYING) parts.push(`context ${Math.min(Math.round(full * 100), 100)} % full`);
    parts.push(`seed ${this.fields.seed}`);
    return parts.join(" · ");
  }
}

/** Whether an error is only that the person has stopped the generation. */
export const wasStopped = (error, run) => run.end === "stopped" || error.name === "AbortError";
