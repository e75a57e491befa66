// Requests to the server: JSON, streams of server-sent events, the key, and errors in words.

const KEY = "gptcli-key";
const LOST = "The connection to the server was lost.";

let key = storedKey();
let askForKey = async () => null;

/** An error in words for people. `retryAfter` is in seconds if the server has said when to try again. */
export class ServerError extends Error {
  constructor(message, { status = 0, code = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }
}

/** Set the function that asks a person for the key; it gets whether the last one was refused. */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

export const hasKey = () => key !== null;

/** Forget the key, in this tab and in its storage. */
export function forgetKey() {
  keep(null);
}

function storedKey() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null; // storage is forbidden: the key lives as long as the page
  }
}

function keep(value) {
  key = value;
  try {
    if (value === null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, value);
  } catch {
    // as in storedKey
  }
}

/** Return the JSON that the server answers. */
export async function getJson(path) {
  const response = await send(path, { headers: {} });
  return parsed(await response.text());
}

/** Yield the objects of a stream of server-sent events. Raise a ServerError if it breaks off. */
export async function* stream(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  const response = await send(path, { method: "POST", headers, body: JSON.stringify({ ...body, stream: true }), signal });
  let isDone = false; // the stream is read to its end, since leaving it earlier would cut the connection
  for await (const data of events(response, signal)) {
    if (data === "[DONE]") isDone = true;
    if (isDone) continue;
    const value = parsed(data);
    if (value.error) throw new ServerError(sentence(value.error.message), { code: value.error.code });
    yield value;
  }
  if (!isDone) throw new ServerError(`${LOST} What has come so far is kept.`);
}

/** Send a request, ask for a key where one is needed, and return a response whose status is 200. */
async function send(path, options) {
  for (;;) {
    const used = key;
    const headers = used === null ? options.headers : { ...options.headers, Authorization: `Bearer ${used}` };
    let response;
    try {
      response = await fetch(path, { ...options, headers, credentials: "same-origin", cache: "no-store" });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new ServerError("The server cannot be reached. Is gptcli serve still running?");
    }
    if (response.ok) return response;
    const failure = await failureOf(response);
    if (response.status !== 401) throw failure;
    if (key !== used) continue; // another request has asked meanwhile
    const given = await askForKey(used !== null);
    if (given === null) throw failure;
    keep(given);
  }
}

/** Return the error of a response in words. */
async function failureOf(response) {
  const after = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  const retryAfter = Number.isFinite(after) ? Math.max(after, 1) : null;
  let said = {};
  try {
    said = JSON.parse(await response.text()).error ?? {};
  } catch {
    // a proxy's own page, which is not shown
  }
  const details = { status: response.status, code: said.code ?? null, retryAfter };
  return new ServerError(wordsOf(response.status, said.message, retryAfter), details);
}

function wordsOf(status, message, retryAfter) {
  const when = retryAfter === null ? "in a moment" : `in ${retryAfter} second${retryAfter === 1 ? "" : "s"}`;
  if (status === 401) return "This server answers only with a key.";
  if (status === 429) return `The server is busy with other requests. Try again ${when}.`;
  if (status === 503) return `${sentence(message ?? "the model is not ready")} Try again ${when}.`;
  return message ? sentence(message) : `The server answered with an error (${status}).`;
}

function sentence(words) {
  const text = String(words).trim();
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? "" : ".");
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new ServerError("The server's answer cannot be read. Is this the address of gptcli serve?");
  }
}

/** Yield the data of the events of a response. */
async function* events(response, signal) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ServerError(`${LOST} What has come so far is kept.`);
  } finally {
    reader.cancel().catch(() => {});
  }
}
