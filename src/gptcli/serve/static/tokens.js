// Tokens with their probabilities, as pieces of whole characters.

export const MOST_ALTERNATIVES = 10;
const BOUNDS = [0.8, 0.5, 0.2, 0.05];

/** A piece of text: one token, or several that share a character. A special token is a piece without text. */
export class Piece {
  constructor(tokens, text) {
    this.tokens = tokens;
    this.text = text;
  }

  /** What stands for the piece where it has no text of its own. */
  get name() {
    return this.text ? "" : this.tokens[0].token;
  }

  get probability() {
    return Math.exp(this.tokens.reduce((sum, token) => sum + token.logprob, 0));
  }

  /** The class of its colour and underline: p0 for likely to p4 for unlikely. */
  get level() {
    const place = BOUNDS.findIndex((bound) => this.probability >= bound);
    return `p${place < 0 ? BOUNDS.length : place}`;
  }
}

/** Joins the bytes of tokens to pieces of whole characters. */
export class PieceReader {
  constructor() {
    this.decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    this.pending = [];
  }

  /** Return the piece that a token completes, or null if a character is still incomplete. */
  read(token) {
    if (!token.bytes?.length && this.pending.length === 0) return new Piece([token], "");
    this.pending.push(token);
    const text = this.decoder.decode(Uint8Array.from(token.bytes ?? []), { stream: true });
    if (!text) return null;
    return new Piece(this.pending.splice(0), text);
  }
}

/** Return a token for display: spaces and line breaks visible, incomplete characters as bytes. */
export function displayed(token) {
  let text;
  try {
    text = token.bytes?.length
      ? new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(token.bytes))
      : token.token;
  } catch {
    return token.bytes.map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
  }
  return text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll("\r", "␍") || "(nothing)";
}

/** Return a probability in words: "45 %", "0.3 %", "under 0.1 %". */
export function percent(probability) {
  const share = probability * 100;
  if (share >= 99.95) return "100 %";
  if (share >= 10) return `${share.toFixed(0)} %`;
  return share >= 0.1 ? `${share.toFixed(1)} %` : "under 0.1 %";
}
