// Free completion: a text is written, the model goes on, and each of its tokens can be changed for another.

import { stream } from "./api.js";
import { Alternatives } from "./alternatives.js";
import { Follower, announce, byId, copyText, counted, notify, onEnter, setIcon } from "./dom.js";
import { Run, wasStopped } from "./run.js";
import { requestFields } from "./settings.js";
import { TokenView } from "./token_view.js";
import { MOST_ALTERNATIVES, Piece, PieceReader } from "./tokens.js";

const MOST_UNDO = 100;
const BEFORE = 24;

/**
 * A text: what was written, and the pieces that the model added.
 * `ids` are the token ids of `prompt` as the server read it; null until it has.
 * `start` is the number of pieces that the last generation began with.
 * `isExact` is false once the text was cut inside a token, so that it can only go on as text.
 */
const EMPTY = { prompt: "", ids: null, pieces: [], start: 0, isExact: true };

export class Completion {
  constructor() {
    this.model = null;
    this.state = { ...EMPTY };
    this.history = [];
    this.run = null;
    this.attempt = 0;
    this.isWriting = true;
    this.input = byId("completion-input");
    this.notice = byId("completion-notice");
    this.alternatives = new Alternatives();
    this.view = new TokenView(byId("written-tokens"), (piece, owner) => this.choose(piece, owner));
    this.follower = new Follower(byId("completion-scroll"));
    onEnter(this.input, () => this.start());
    this.input.addEventListener("input", () => this.refresh());
    const actions = {
      run: () => (this.run ? this.stop() : this.start()),
      again: () => this.again(),
      edit: () => this.edit(),
      undo: () => this.undo(),
      new: () => this.clear(),
      copy: () => copyText(byId("completion-copy"), this.text),
    };
    for (const [name, action] of Object.entries(actions)) byId(`completion-${name}`).addEventListener("click", action);
    byId("show-probabilities").addEventListener("click", () => this.showProbabilities(!this.view.isColoured));
    byId("completion-scroll").addEventListener("dblclick", () => this.edit());
    this.refresh();
  }

  get text() {
    const { prompt, pieces } = this.state;
    return this.isWriting ? this.input.value : prompt + pieces.map((piece) => piece.text).join("");
  }

  use(model) {
    if (this.model && this.model.id !== model.id) {
      this.edit();
      this.history = []; // its ids are those of another tokenizer
    }
    this.model = model;
    const { example } = model.gptcli ?? {};
    this.input.placeholder = `Write the beginning of a text${example ? `, such as “${example}”` : ""}, and the model goes on.`;
    this.refresh();
  }

  showProbabilities(shown) {
    this.view.colour(shown);
    byId("show-probabilities").setAttribute("aria-pressed", String(shown));
    this.refresh();
  }

  /** Go on from the text as it is. */
  start() {
    if (this.run || !this.model) return;
    this.remember();
    this.attempt = 0;
    if (this.isWriting) {
      this.state = { ...EMPTY, prompt: this.input.value };
      this.setWriting(false);
      byId("completion-run").focus();
    } else if (!this.state.isExact) {
      this.state = { ...EMPTY, prompt: this.text };
    }
    this.generate(this.withoutEnd());
  }

  /** Return the pieces but for the token that ended the text, after which the model would begin another one. */
  withoutEnd() {
    const { pieces } = this.state;
    return pieces.length && this.isEnd(pieces.at(-1).tokens[0]) ? pieces.slice(0, -1) : pieces;
  }

  isEnd(token) {
    return this.model.gptcli?.stop_ids?.includes(token.id) ?? false;
  }

  /** Draw the last continuation again. */
  again() {
    if (this.run || this.isWriting) return;
    this.remember();
    this.attempt += 1;
    this.generate(this.state.pieces.slice(0, this.state.start));
  }

  /** Show what else could have come at a piece, and go on from what is chosen. */
  choose(piece, owner) {
    const place = this.state.pieces.indexOf(piece);
    const before = (this.state.prompt + this.state.pieces.slice(0, place).map((one) => one.text).join("")).slice(-BEFORE);
    this.alternatives.open(owner, piece.tokens[0], before, (token) => this.goOnFrom(place, token));
  }

  goOnFrom(place, token) {
    this.stop();
    this.remember();
    this.attempt = 0;
    const kept = this.state.pieces.slice(0, place);
    const likely = this.state.pieces[place].tokens[0].top_logprobs;
    const picked = { ...token, top_logprobs: likely };
    if (this.isEnd(token)) {
      this.state = { ...this.state, pieces: [...kept, new Piece([picked], "")], isExact: true };
      this.draw();
      announce("The text ends here.");
      this.refresh();
      return;
    }
    byId("completion-run").focus();
    this.generate(kept, picked);
  }

  /** Ask the server to continue `kept`, and `picked` after it if a token was chosen. */
  async generate(kept, picked = null) {
    const run = new Run(requestFields(this.attempt));
    this.run = run;
    const reader = new PieceReader();
    this.state = { ...this.state, pieces: [...kept], start: kept.length, isExact: true };
    this.draw();
    if (picked) this.add(reader, picked);
    const from = this.state.pieces.length;
    const beginsWhole = reader.pending.length === 0;
    notify(this.notice, "");
    this.refresh();
    let received = 0;
    try {
      for await (const chunk of stream("v1/completions", this.request(run.fields, kept, picked), run.signal)) {
        if (this.run !== run) return;
        const choice = run.take(chunk);
        if (!choice) continue;
        if (choice.prompt_token_ids && this.state.ids === null) this.state.ids = choice.prompt_token_ids;
        received += choice.text?.length ?? 0;
        for (const token of choice.logprobs?.content ?? []) this.add(reader, token);
        this.follower.grow();
      }
    } catch (error) {
      if (!wasStopped(error, run)) this.fail(error);
    }
    if (this.run !== run) return;
    if (run.end !== null && beginsWhole) this.trim(received, from);
    this.finish(run);
  }

  request(fields, kept, picked) {
    const after = [...kept.flatMap((piece) => piece.tokens), ...(picked ? [picked] : [])].map((token) => token.id);
    const prompt = this.state.ids === null ? this.state.prompt : [...this.state.ids, ...after];
    return {
      model: this.model.id, prompt, ...fields,
      logprobs: MOST_ALTERNATIVES, return_token_ids: true, stream_options: { include_usage: true },
    };
  }

  add(reader, token) {
    const piece = reader.read(token);
    if (!piece) return;
    this.state.pieces.push(piece);
    this.view.append(piece);
  }

  fail(error) {
    notify(this.notice, error.message, "Try again", () => this.generate(this.state.pieces.slice(0, this.state.start)));
  }

  finish(run) {
    this.run = null;
    byId("completion-meta").textContent = run.summary();
    if (run.end === "stopped") announce("Stopped.");
    else if (run.end) announce(`The continuation is complete: ${counted(run.tokens, "token")}.`);
    this.refresh();
    this.follower.grow();
  }

  /** `received` is the length of the text that came, which is shorter than that of its tokens if a stop text cut it. */
  trim(received, from) {
    const { pieces } = this.state;
    let over = pieces.slice(from).reduce((sum, piece) => sum + piece.text.length, 0) - received;
    if (over <= 0) return;
    while (over > 0 && pieces.length > from) {
      const last = pieces.pop();
      if (over < last.text.length) {
        pieces.push(new Piece(last.tokens, last.text.slice(0, -over)));
        this.state.isExact = false;
        break;
      }
      over -= last.text.length;
    }
    this.draw();
  }

  stop() {
    const run = this.run;
    if (!run) return;
    run.stop();
    this.finish(run);
  }

  remember() {
    const state = { ...this.state, pieces: [...this.state.pieces] };
    this.history.push({ state, written: this.input.value, isWriting: this.isWriting });
    if (this.history.length > MOST_UNDO) this.history.shift();
  }

  undo() {
    this.stop();
    const before = this.history.pop();
    if (!before) return;
    this.state = before.state;
    this.input.value = before.written;
    this.setWriting(before.isWriting);
    this.draw();
    notify(this.notice, "");
    this.refresh();
    if (this.isWriting) this.input.focus();
    announce("Undone.");
  }

  /** Turn the text and its continuation into text that can be written on. */
  edit() {
    if (this.isWriting) return;
    this.stop();
    this.remember();
    this.input.value = this.text;
    this.setWriting(true);
    this.refresh();
    this.input.focus();
    this.input.setSelectionRange(this.input.value.length, this.input.value.length);
    this.input.scrollTop = this.input.scrollHeight;
  }

  clear() {
    this.stop();
    this.remember();
    this.state = { ...EMPTY };
    this.input.value = "";
    this.setWriting(true);
    notify(this.notice, "");
    this.refresh();
    this.input.focus();
  }

  setWriting(isWriting) {
    this.isWriting = isWriting;
    this.input.hidden = !isWriting;
    byId("completion-scroll").hidden = isWriting;
  }

  draw() {
    this.alternatives.close(false);
    byId("written-prompt").textContent = this.state.prompt;
    this.view.show(this.state.pieces);
  }

  /** Show what can be done now. */
  refresh() {
    const runs = this.run !== null;
    const reads = !this.isWriting;
    for (const name of ["edit", "again", "copy"]) byId(`completion-${name}`).hidden = !reads || runs;
    byId("completion-hint").hidden = reads && !runs;
    byId("completion-meta").hidden = !reads || runs;
    byId("legend").hidden = !reads || !this.view.isColoured || this.state.pieces.length === 0;
    byId("completion-undo").disabled = this.history.length === 0;
    byId("completion-new").disabled = !this.text;
    byId("written-tokens").classList.toggle("is-growing", runs);
    if (runs) byId("written-tokens").setAttribute("aria-busy", "true");
    else byId("written-tokens").removeAttribute("aria-busy");
    const button = byId("completion-run");
    setIcon(button, runs ? "stop" : "send");
    button.querySelector("span").textContent = runs ? "Stop" : reads ? "Go on" : "Continue";
  }
}
