// The pieces of a continuation on the page: plain text, or one element each with its probability.

import { element } from "./dom.js";
import { percent } from "./tokens.js";

export class TokenView {
  /** `onChoose(piece, owner)` is called for a piece that is clicked, or focused when Enter is pressed. */
  constructor(box, onChoose) {
    this.box = box;
    this.onChoose = onChoose;
    this.isColoured = true;
    this.pieces = [];
    box.addEventListener("click", (event) => this.choose(event.target.closest(".token")));
    box.addEventListener("keydown", (event) => this.onKey(event));
  }

  show(pieces) {
    this.pieces = [];
    this.box.replaceChildren();
    for (const piece of pieces) this.append(piece);
  }

  append(piece) {
    const space = piece.text.match(/^ +(?=\S)/)?.[0] ?? ""; // not marked, so that marks have the width of words
    const owner = element("span", {}, space, element("span", { text: piece.text.slice(space.length), "data-name": piece.name || null }));
    this.pieces.push(piece);
    this.box.append(owner);
    this.dress(owner, this.pieces.length - 1);
  }

  colour(isColoured) {
    this.isColoured = isColoured;
    [...this.box.children].forEach((owner, place) => this.dress(owner, place));
  }

  /** Make an element a button with its probability, or plain text. */
  dress(owner, place) {
    const piece = this.pieces[place];
    if (!this.isColoured) {
      for (const name of ["class", "role", "tabindex", "title", "aria-label", "aria-haspopup", "aria-expanded"]) {
        owner.removeAttribute(name);
      }
      return;
    }
    const share = percent(piece.probability);
    owner.className = `token ${piece.level}`;
    owner.title = share;
    owner.tabIndex = place === 0 ? 0 : -1;
    owner.setAttribute("role", "button");
    owner.setAttribute("aria-haspopup", "dialog");
    owner.setAttribute("aria-expanded", "false");
    owner.setAttribute("aria-label", `${piece.name || piece.text.trim() || "space"}, ${share}`);
  }

  choose(owner) {
    const place = [...this.box.children].indexOf(owner);
    if (place < 0 || !this.isColoured) return;
    this.focus(place);
    this.onChoose(this.pieces[place], owner);
  }

  /** Only one piece is in the order of Tab; the arrows go from piece to piece. */
  focus(place) {
    const owners = this.box.children;
    for (const owner of this.box.querySelectorAll("[tabindex='0']")) owner.tabIndex = -1;
    owners[place].tabIndex = 0;
    owners[place].focus();
  }

  onKey(event) {
    const owners = [...this.box.children];
    const here = owners.indexOf(document.activeElement);
    if (here < 0) return;
    const forward = getComputedStyle(this.box).direction === "rtl" ? -1 : 1;
    const next = {
      ArrowRight: here + forward, ArrowLeft: here - forward, Home: 0, End: owners.length - 1,
    }[event.key];
    if (event.key === "Enter" || event.key === " ") this.choose(owners[here]);
    else if (next === undefined) return;
    else if (next >= 0 && next < owners.length) this.focus(next);
    event.preventDefault();
  }
}
