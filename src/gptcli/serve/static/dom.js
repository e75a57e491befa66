// Small helpers for elements. Text always becomes text nodes, so that no name and no model text is ever markup.

const NEAR_END = 48;
const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** Return a new element; `properties` are attributes, besides `text` and `class`. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") made.textContent = value;
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children);
  return made;
}

/** Return a drawing of the symbols in index.html. */
export function icon(name) {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("class", "icon");
  drawing.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  drawing.append(use);
  return drawing;
}

/** Replace the drawing of a button. */
export function setIcon(button, name) {
  button.querySelector("use").setAttribute("href", `#icon-${name}`);
}

/** Return a button with a drawing and a word. */
export function iconButton(name, word, onClick) {
  const button = element("button", { type: "button", class: "quiet" }, icon(name), element("span", { text: word }));
  button.addEventListener("click", onClick);
  return button;
}

/** Let screen readers say a sentence. */
export function announce(sentence) {
  byId("announcement").textContent = sentence;
}

/** Copy a text, and show for a moment on the button that it was copied. */
export async function copyText(button, text) {
  const word = button.querySelector("span");
  try {
    await navigator.clipboard.writeText(text);
    flash(button, word, "done", "Copied");
  } catch {
    flash(button, word, "copy", copyBySelection(text) ? "Copied" : "Not allowed");
  }
}

function flash(button, word, drawing, said) {
  const before = button.dataset.word ?? word.textContent;
  button.dataset.word = before;
  setIcon(button, drawing);
  word.textContent = said;
  announce(said);
  clearTimeout(Number(button.dataset.timer));
  button.dataset.timer = setTimeout(() => {
    setIcon(button, "copy");
    word.textContent = before;
  }, 1600);
}

/** Copy by a selection, for pages that are not served over HTTPS or from this machine; return whether it worked. */
function copyBySelection(text) {
  const area = element("textarea", { class: "unseen", "aria-hidden": "true", tabindex: "-1" });
  const focused = document.activeElement;
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return copied;
}

/** Show a sentence in a notice, with a button if there is something to do about it; an empty sentence hides it. */
export function notify(notice, sentence, word = "", action = null) {
  notice.replaceChildren();
  notice.hidden = !sentence;
  if (!sentence) return;
  notice.append(element("p", { text: sentence, dir: "auto" }));
  if (action) {
    const button = element("button", { type: "button", class: "quiet", text: word });
    button.addEventListener("click", action);
    notice.append(button);
  }
}

/** Keeps the end of a box in view while it grows, unless the reader has scrolled up. */
export class Follower {
  constructor(box) {
    this.box = box;
    this.height = 0;
  }

  /** Scroll to the end if it was in view before the box grew; `always` scrolls in any case. */
  grow(always = false) {
    const { scrollHeight, scrollTop, clientHeight } = this.box;
    if (always || this.height - scrollTop - clientHeight < NEAR_END) this.box.scrollTop = scrollHeight;
    this.height = scrollHeight;
  }
}

/** Let the height of a text area follow its text. */
export function growWithText(area) {
  const fit = () => {
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
  };
  area.addEventListener("input", fit);
  return fit;
}

/** Call `action` on Enter; Shift+Enter, and Enter that ends the input of a character, stay with the text area. */
export function onEnter(area, action) {
  area.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    action();
  });
}

/** Return a count with its noun: "1 token", "2,048 tokens". */
export function counted(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}
