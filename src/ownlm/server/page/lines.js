// Parses JSON lines into records, and checks them before they are sent.

import { Problem } from "./api.js";

const RECORDS = 200; // in one request
const BYTES = 1_000_000; // of their JSON

/** Splits records into parts that fit one request. */
export function* parts(records) {
  const encoder = new TextEncoder();
  let part = [];
  let bytes = 0;
  for (const record of records) {
    const size = encoder.encode(JSON.stringify(record)).length;
    if (part.length && (part.length === RECORDS || bytes + size > BYTES)) {
      yield part;
      [part, bytes] = [[], 0];
    }
    part.push(record);
    bytes += size;
  }
  if (part.length) yield part;
}

/**
 * The records of a text of JSON lines, or of one JSON list.
 *
 * A file's `user_id` may name the person who is signed in, and is left out; another one's name is refused.
 */
export function recordsOf(text, required, user) {
  const rows = text.trim().startsWith("[") ? ofList(text) : ofLines(text);
  if (!rows.length) throw new Problem("It has no records.", "Write one JSON object on each line.");
  return rows.map(({ place, row }) => checked(place, row, required, user));
}

function ofList(text) {
  let list;
  try {
    list = JSON.parse(text);
  } catch {
    throw new Problem("The text begins like a JSON list but is not valid.", "Correct it, or write one JSON object on each line.");
  }
  return list.map((row, index) => ({ place: `Record ${index + 1}`, row }));
}

function ofLines(text) {
  const rows = [];
  text.split(/\r?\n/).forEach((line, index) => {
    if (!line.trim()) return;
    const place = `Line ${index + 1}`;
    try {
      rows.push({ place, row: JSON.parse(line) });
    } catch {
      throw new Problem(`${place} is not JSON.`, "Correct it; nothing was sent.");
    }
  });
  return rows;
}

function checked(place, row, required, user) {
  if (row === null || typeof row !== "object" || Array.isArray(row)) {
    throw new Problem(`${place} is not a JSON object.`, 'Write it as {"field": "text"}; nothing was sent.');
  }
  const { user_id: owner, ...record } = row;
  if (owner !== undefined && String(owner) !== user) {
    throw new Problem(
      `${place} is another user's record.`,
      "Leave it out: you can only add your own records. Nothing was sent.",
    );
  }
  const missing = required.filter((name) => record[name] === undefined || String(record[name]).trim() === "");
  if (missing.length) {
    throw new Problem(`${place} lacks ${missing.join(", ")}.`, "Add it there; nothing was sent.");
  }
  return record;
}
