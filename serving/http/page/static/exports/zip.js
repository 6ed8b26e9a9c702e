/** ZIP archive of small text files, stored without compression. */

import { crc32 } from "./crc32.js";

const [LOCAL, CENTRAL, END] = [0x04034b50, 0x02014b50, 0x06054b50];
const UTF8_NAMES = 0x0800;
const FIRST_DATE = 0x21; // 1 January 1980

/**
 * @param {Record<string, string>} files content by name
 * @returns {Blob}
 */
export function zipOf(files) {
  const encoder = new TextEncoder();
  const [locals, centrals] = [[], []];
  let offset = 0;
  for (const [path, text] of Object.entries(files)) {
    const [name, content] = [encoder.encode(path), encoder.encode(text)];
    // What both headers hold from the flags on.
    const common = [
      [2, UTF8_NAMES], [2, 0], [2, 0], [2, FIRST_DATE], [4, crc32(content)],
      [4, content.length], [4, content.length], [2, name.length], [2, 0],
    ];
    const local = record([[4, LOCAL], [2, 20], ...common]);
    const rest = [[2, 0], [2, 0], [2, 0], [4, 0], [4, offset]];
    locals.push(local, name, content);
    centrals.push(record([[4, CENTRAL], [2, 20], [2, 20], ...common, ...rest]), name);
    offset += local.length + name.length + content.length;
  }
  const size = centrals.reduce((sum, part) => sum + part.length, 0);
  const count = Object.keys(files).length;
  const end = record([[4, END], [2, 0], [2, 0], [2, count], [2, count], [4, size], [4, offset], [2, 0]]);
  return new Blob([...locals, ...centrals, end], { type: "application/zip" });
}

/** Little-endian numbers of so many bytes. */
function record(fields) {
  const bytes = new Uint8Array(fields.reduce((sum, [size]) => sum + size, 0));
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const [size, value] of fields) {
    if (size === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += size;
  }
  return bytes;
}
