// The list of tokens that could have come at a place, next to the one that was drawn.

import { byId, element } from "./dom.js";
import { displayed, percent } from "./tokens.js";

const GAP = 8;

export class Alternatives {
  constructor() {
    this.box = byId("alternatives");
    this.list = byId("alternatives-list");
    this.owner = null;
    byId("alternatives-close").addEventListener("click", () => this.close(true));
    this.box.addEventListener("keydown", (event) => this.onKey(event));
    document.addEventListener("pointerdown", (event) => {
      if (this.isOpen && !this.box.contains(event.target)) this.close(false);
    });
    addEventListener("resize", () => this.close(false));
  }

  get isOpen() {
    return this.owner !== null;
  }

  /** Show the alternatives to `token`, whose element is `owner`; `choose` gets the one that is chosen. */
  open(owner, token, before, choose) {
    this.close(false);
    this.owner = owner;
    owner.setAttribute("aria-expanded", "true");
    const likely = token.top_logprobs ?? [];
    const all = (likely.some((other) => other.id === token.id) ? [...likely] : [...likely, token])
      .sort((one, other) => other.logprob - one.logprob);
    byId("alternatives-words").replaceChildren(
      "After ", element("bdi", { class: "sample", text: before ? `…${before}` : "the beginning" }), " the model finds most likely:");
    this.list.replaceChildren(...all.map((other) => this.row(other, other.id === token.id, choose)));
    this.box.showPopover();
    this.place(owner);
    (this.list.querySelector("[aria-current]") ?? this.list.querySelector("button")).focus();
  }

  row(token, isDrawn, choose) {
    const probability = Math.exp(token.logprob);
    const bar = element("span", { class: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--share", probability);
    const button = element("button", { type: "button", "aria-current": isDrawn ? "true" : undefined },
      element("bdi", { class: "sample", text: displayed(token) }),
      isDrawn ? element("span", { class: "drawn", text: "drawn" }) : "",
      bar,
      element("span", { class: "share", text: percent(probability) }));
    button.addEventListener("click", () => {
      this.close(false);
      choose(token);
    });
    return element("li", {}, button);
  }

  close(returnsFocus) {
    if (!this.isOpen) return;
    const owner = this.owner;
    this.owner = null;
    owner.setAttribute("aria-expanded", "false");
    this.box.hidePopover();
    if (returnsFocus) owner.focus();
  }

  onKey(event) {
    const buttons = [...this.list.querySelectorAll("button")];
    const here = buttons.indexOf(document.activeElement);
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") {
      event.stopPropagation();
      this.close(true);
    } else if (step) {
      buttons[(here + step + buttons.length) % buttons.length].focus();
    } else if (event.key === "Tab") {
      this.keepFocus(event, buttons);
    } else {
      return;
    }
    event.preventDefault();
  }

  /** Tab goes between the list and the button that closes it. */
  keepFocus(event, buttons) {
    const close = byId("alternatives-close");
    if (document.activeElement === close) (buttons.find((button) => button.hasAttribute("aria-current")) ?? buttons[0]).focus();
    else close.focus();
  }

  /** Put the box below its token, or above it where there is more room, inside the window. */
  place(owner) {
    const anchor = owner.getClientRects()[0];
    const box = this.box.getBoundingClientRect();
    const below = innerHeight - anchor.bottom - GAP;
    const isBelow = below >= box.height || below >= anchor.top;
    const top = isBelow ? anchor.bottom + GAP : anchor.top - GAP - box.height;
    const left = Math.min(anchor.left, innerWidth - box.width - GAP);
    this.box.style.top = `${Math.max(GAP, Math.min(top, innerHeight - box.height - GAP))}px`;
    this.box.style.left = `${Math.max(GAP, left)}px`;
  }
}
