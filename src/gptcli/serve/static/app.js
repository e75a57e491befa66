// The page: which model, which theme, which pane, and the keys that work everywhere.

import { forgetKey, getJson, hasKey, onKeyNeeded } from "./api.js";
import { Chat } from "./chat.js";
import { Completion } from "./completion.js";
import { byId, element, notify, setIcon } from "./dom.js";
import { showFacts } from "./facts.js";
import { makeSettings } from "./settings.js";

const THEMES = ["auto", "light", "dark"];
const THEME_WORDS = { auto: "as the system", light: "light", dark: "dark" };
const NARROW = matchMedia("(max-width: 759px)");
const WIDE = matchMedia("(min-width: 1240px)");
const SECONDS_BETWEEN = 2;
const MOST_SECONDS = 30;

makeSettings();
const chat = new Chat();
const completion = new Completion();

/* The model */

async function loadModels() {
  notify(byId("page-notice"), "");
  try {
    const { data } = await getJson("v1/models");
    if (data?.length) offer(data);
    else wait("No model is loaded yet: the page asks again by itself.", SECONDS_BETWEEN);
  } catch (error) {
    byId("description").textContent = "No model yet.";
    if (error.status === 503) wait(error.message, error.retryAfter ?? SECONDS_BETWEEN);
    else notify(byId("page-notice"), error.message, "Try again", loadModels);
  }
  byId("key-line").hidden = !hasKey();
}

function wait(words, seconds) {
  byId("description").textContent = words;
  setTimeout(loadModels, 1000 * Math.min(seconds, MOST_SECONDS));
}

function offer(models) {
  const select = byId("model-select");
  select.replaceChildren(...models.map((model) => element("option", { value: model.id, text: model.id })));
  byId("model-choice").hidden = models.length < 2;
  byId("model-name").classList.toggle("unseen", models.length > 1);
  select.onchange = () => use(models.find((model) => model.id === select.value));
  use(models[0]);
}

function use(model) {
  showFacts(model);
  chat.use(model);
  completion.use(model);
  const chats = model.gptcli?.chat !== false;
  byId("panes").classList.toggle("no-chat", !chats);
  byId("tabs").hidden = !chats;
  showPane(chats ? "chat" : "completion");
}

byId("facts-more").addEventListener("click", () => {
  const isOpen = byId("about").classList.toggle("is-open");
  byId("facts-more").setAttribute("aria-expanded", String(isOpen));
  byId("facts-more").textContent = isOpen ? "Less" : "More about it";
});

/* The theme */

function theme() {
  return document.documentElement.dataset.theme ?? "auto";
}

function setTheme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  try {
    localStorage.setItem("gptcli-theme", name);
  } catch {
    // storage is forbidden: the theme lives as long as the page
  }
  showTheme();
}

function showTheme() {
  const button = byId("theme-button");
  setIcon(button, theme());
  const words = `Theme: ${THEME_WORDS[theme()]}`;
  button.setAttribute("aria-label", words);
  button.title = words;
}

byId("theme-button").addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length]));
showTheme();

/* Panes: side by side, or one at a time by tabs on a phone */

const PANES = ["chat", "completion"];
let shownPane = "chat";

function showPane(name) {
  shownPane = name;
  for (const pane of PANES) {
    const tab = byId(`tab-${pane}`);
    tab.setAttribute("aria-selected", String(pane === name));
    tab.tabIndex = pane === name ? 0 : -1;
    const box = byId(pane);
    box.classList.toggle("is-shown", pane === name);
    if (NARROW.matches && !byId("tabs").hidden) {
      box.setAttribute("role", "tabpanel");
      box.setAttribute("aria-labelledby", `tab-${pane}`);
    } else {
      box.removeAttribute("role");
      box.setAttribute("aria-labelledby", `${pane}-title`);
    }
  }
}

for (const pane of PANES) byId(`tab-${pane}`).addEventListener("click", () => showPane(pane));
byId("tabs").addEventListener("keydown", (event) => {
  if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
  showPane(shownPane === "chat" ? "completion" : "chat");
  byId(`tab-${shownPane}`).focus();
  event.preventDefault();
});
NARROW.addEventListener("change", () => showPane(shownPane));

/* Settings: beside the panes where there is room, over them where there is none */

function showSettings(shown, takesFocus = false) {
  byId("settings").hidden = !shown;
  byId("settings-button").setAttribute("aria-expanded", String(shown));
  if (takesFocus) (shown ? byId("settings").querySelector("textarea") : byId("settings-button")).focus();
}

byId("settings-button").addEventListener("click", () => showSettings(byId("settings").hidden, byId("settings").hidden));
byId("settings-close").addEventListener("click", () => showSettings(false, true));
WIDE.addEventListener("change", () => showSettings(WIDE.matches));
showSettings(WIDE.matches);

/* The key */

let asked = null;

onKeyNeeded((wasRefused) => {
  asked ??= askForKey(wasRefused).finally(() => { asked = null; });
  return asked;
});

function askForKey(wasRefused) {
  const dialog = byId("key-dialog");
  byId("key-title").textContent = wasRefused ? "The server does not accept this key" : "This server asks for a key";
  byId("key-input").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  byId("key-input").focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "use" ? byId("key-input").value.trim() : null), { once: true });
  });
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (byId("key-input").value.trim()) byId("key-dialog").close("use");
});
byId("key-cancel").addEventListener("click", () => byId("key-dialog").close());
byId("key-forget").addEventListener("click", () => {
  forgetKey();
  byId("key-line").hidden = true;
  loadModels();
});

/* Escape stops what runs, or closes the settings that lie over the panes */

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing || byId("key-dialog").open || completion.alternatives.isOpen) return;
  if (chat.run || completion.run) {
    chat.stop();
    completion.stop();
  } else if (!WIDE.matches && !byId("settings").hidden) {
    showSettings(false, true);
  }
});

loadModels();
