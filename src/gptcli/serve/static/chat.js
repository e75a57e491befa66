// The chat: messages, the answer that streams, and what can be done with them.

import { stream } from "./api.js";
import { Follower, announce, byId, copyText, counted, element, growWithText, iconButton, notify, onEnter, setIcon } from "./dom.js";
import { Run, wasStopped } from "./run.js";
import { requestFields, systemPrompt } from "./settings.js";

export class Chat {
  constructor() {
    this.model = null;
    /** {role, content, meta, node} of each message. */
    this.messages = [];
    this.run = null;
    this.attempt = 0;
    this.list = byId("messages");
    this.input = byId("chat-input");
    this.notice = byId("chat-notice");
    this.follower = new Follower(byId("chat-scroll"));
    this.fit = growWithText(this.input);
    onEnter(this.input, () => this.submit());
    byId("chat-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.run) this.stop();
      else this.submit();
    });
    byId("chat-new").addEventListener("click", () => this.clear());
    byId("chat-undo").addEventListener("click", () => this.undo());
    this.input.addEventListener("keydown", (event) => {
      if (event.key === "ArrowUp" && !this.input.value && !this.run) this.editLast(event);
    });
    this.refresh();
  }

  /** Talk to another model; what was said to the one before does not carry over. */
  use(model) {
    if (this.model?.id !== model.id) this.clear();
    this.model = model;
    this.refresh();
  }

  submit() {
    const text = this.input.value.trim();
    if (!text || this.run || !this.model) return;
    this.input.value = "";
    this.fit();
    this.ask(text);
  }

  ask(text) {
    this.attempt = 0;
    this.add({ role: "user", content: text });
    return this.answer();
  }

  stop() {
    this.run?.stop();
  }

  clear() {
    this.stop();
    this.cutTo(0);
    notify(this.notice, "");
    this.refresh();
    if (this.model) this.input.focus();
  }

  /** Take the last question and its answer away; the question goes back to where it was written. */
  undo() {
    this.stop();
    const last = this.lastQuestion();
    if (last < 0) return;
    const { content } = this.messages[last];
    this.cutTo(last);
    notify(this.notice, "");
    if (!this.input.value) this.input.value = content;
    this.fit();
    this.refresh();
    this.input.focus();
    announce("The last message was taken back.");
  }

  again() {
    if (this.run) return;
    this.attempt += 1;
    this.cutTo(this.lastQuestion() + 1);
    this.answer();
  }

  editLast(event) {
    const last = this.lastQuestion();
    if (last < 0 || this.run) return;
    event?.preventDefault();
    const message = this.messages[last];
    const area = element("textarea", { "aria-label": "Your message", dir: "auto", rows: 1 });
    area.value = message.content;
    const close = () => {
      box.replaceWith(message.node.body);
      message.node.actions.hidden = false;
      this.refresh();
    };
    const save = () => {
      const text = area.value.trim();
      if (!text || this.run) return;
      this.cutTo(last);
      this.ask(text);
      this.input.focus();
    };
    const cancel = iconButton("close", "Cancel", () => { close(); this.input.focus(); });
    const send = iconButton("send", "Send", save);
    const box = element("div", { class: "editor" }, area, element("div", { class: "actions" }, cancel, send));
    onEnter(area, save);
    box.addEventListener("keydown", (key) => {
      if (key.key !== "Escape") return;
      key.stopPropagation();
      close();
      this.input.focus();
    });
    const fit = growWithText(area);
    message.node.body.replaceWith(box);
    message.node.actions.hidden = true;
    fit();
    area.focus();
  }

  lastQuestion() {
    return this.messages.findLastIndex((message) => message.role === "user");
  }

  cutTo(length) {
    for (const message of this.messages.splice(length)) message.node.item.remove();
  }

  /** Ask the server for the answer to the messages, and show it as it comes. */
  async answer() {
    const run = new Run(requestFields(this.attempt));
    this.run = run;
    notify(this.notice, "");
    const system = systemPrompt();
    const messages = this.messages.map(({ role, content }) => ({ role, content }));
    if (system) messages.unshift({ role: "system", content: system });
    const { max_tokens: most, ...others } = run.fields;
    const body = {
      model: this.model.id, messages, ...others, max_completion_tokens: most, stream_options: { include_usage: true },
    };
    const message = this.add({ role: "assistant", content: "" });
    byId("chat-scroll").setAttribute("aria-busy", "true");
    message.node.item.classList.add("is-growing");
    this.refresh();
    try {
      for await (const chunk of stream("v1/chat/completions", body, run.signal)) {
        const text = run.take(chunk)?.delta?.content;
        if (text) this.extend(message, text);
      }
    } catch (error) {
      if (!wasStopped(error, run)) this.fail(error, message);
    }
    this.finish(run, message);
  }

  extend(message, text) {
    message.content += text;
    message.node.text.appendData(text);
    this.follower.grow();
  }

  fail(error, message) {
    if (!message.content && this.messages.at(-1) === message) this.cutTo(this.messages.length - 1);
    const retry = () => {
      notify(this.notice, "");
      this.cutTo(this.lastQuestion() + 1);
      this.answer();
    };
    notify(this.notice, error.message, "Try again", retry);
    this.follower.grow(true);
  }

  finish(run, message) {
    message.node.item.classList.remove("is-growing");
    message.node.meta.textContent = run.summary(this.model.gptcli?.context);
    if (this.run !== run) return;
    this.run = null;
    byId("chat-scroll").removeAttribute("aria-busy");
    if (this.messages.includes(message)) {
      message.node.body.classList.toggle("is-empty", !message.content);
      if (run.end === "stopped") announce("Stopped.");
      else if (run.end) announce(`The answer is complete: ${counted(run.tokens, "token")}.`);
    }
    this.refresh();
    this.follower.grow();
  }

  add(message) {
    this.list.append(this.render(message));
    this.messages.push(message);
    this.refresh();
    this.follower.grow(true);
    return message;
  }

  render(message) {
    const isUser = message.role === "user";
    const text = document.createTextNode(message.content);
    const body = element("div", { class: "text", dir: "auto" }, text);
    const meta = element("p", { class: "meta" });
    const copy = iconButton("copy", "Copy", () => copyText(copy, message.content));
    const change = isUser
      ? iconButton("edit", "Edit", () => this.editLast())
      : iconButton("again", "Again", () => this.again());
    const actions = element("div", { class: "actions" }, copy, change);
    const who = element("p", { class: "who" }, element("bdi", { text: isUser ? "You" : this.model.id }));
    const item = element("li", { class: `message ${message.role}` }, who, body, element("div", { class: "foot" }, actions, meta));
    message.node = { item, body, text, meta, actions, change };
    return item;
  }

  /** Show what can be done now. */
  refresh() {
    const last = this.lastQuestion();
    this.messages.forEach((message, place) => {
      const isLast = message.role === "user" ? place === last : place === this.messages.length - 1;
      message.node.change.hidden = !isLast || this.run !== null;
      message.node.actions.hidden = message.node.item.classList.contains("is-growing");
    });
    byId("chat-empty").hidden = this.messages.length > 0;
    byId("chat-undo").disabled = last < 0;
    byId("chat-new").disabled = this.messages.length === 0;
    const send = byId("chat-send");
    send.setAttribute("aria-label", this.run ? "Stop" : "Send");
    send.title = this.run ? "Stop (Esc)" : "Send (Enter)";
    setIcon(send, this.run ? "stop" : "send");
  }
}
