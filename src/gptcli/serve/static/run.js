// One generation under way: its stop, its count of tokens and its time.

import { counted } from "./dom.js";

const ENDS = { length: "cut at the most tokens", stop: "", stopped: "stopped by you" };

/** A generation. `text` grows with its chunks; `end` says why it ended. */
export class Run {
  constructor() {
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

  /** Return a line on what the generation took. `seed` is the one it was drawn with. */
  summary(seed) {
    const parts = [];
    const made = this.usage?.completion_tokens ?? 0;
    if (made) {
      parts.push(counted(made, "token"));
      const seconds = (performance.now() - this.first) / 1000;
      if (made > 1 && seconds > 0.05) parts.push(`${Math.round((made - 1) / seconds).toLocaleString("en")} a second`);
    }
    if (ENDS[this.end]) parts.push(ENDS[this.end]);
    parts.push(`seed ${seed}`);
    return parts.join(" · ");
  }
}

/** Whether an error is only that the person has stopped the generation. */
export const wasStopped = (error, run) => run.end === "stopped" || error.name === "AbortError";
